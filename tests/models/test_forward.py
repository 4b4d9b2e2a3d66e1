"""What each family computes, and in which order: the sequence of operations is part of a result's bits."""

import re

import pytest

from sampan.kernels.graph import Node
from sampan.kernels.recorder import record
from sampan.models import registry

CONFIG = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "intermediate_size": 96, "vocab_size": 80,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
}  # fmt: skip
HEAD_NORMS = {"qwen3": ["norm self_attn.q_norm", "norm self_attn.k_norm"]}


def called(node: Node) -> str:
    """The operation and its weights, without the layer's number."""
    return re.sub(r"model\.layers\.\d+\.", "", node.label).replace(",", "")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_operations_in_their_order(family: str) -> None:
    graph = record(registry.describe(registry.from_hf(CONFIG | {"model_type": family})).forward)
    found = [called(node) for node in graph.nodes if node.op != "slice"]
    expected = ["embed model.embed_tokens"]
    for layer in range(2):
        expected += [
            "norm input_layernorm",
            "linear self_attn.q_proj self_attn.k_proj self_attn.v_proj",
            *HEAD_NORMS.get(family, []),
            "rope",
            "rope",
            f"attend of layer {layer}",
            *(["rows", "rows"] if layer == 1 else []),
            "linear self_attn.o_proj",
            "add",
            "norm post_attention_layernorm",
            "linear mlp.gate_proj mlp.up_proj",
            "swiglu",
            "linear mlp.down_proj",
            "add",
        ]
    assert found == [*expected, "norm model.norm", "head lm_head"]
    assert graph.outputs["hidden"].label == "norm model.norm"
