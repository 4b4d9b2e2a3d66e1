"""What a configuration of Qwen's hybrids says, and what is refused by its field."""

from math import prod
from typing import Any

import pytest

from sampan.core.errors import SampanError
from sampan.models import registry
from sampan.models.hybrid_config import HybridConfig

# As published for Qwen3-Next-80B-A3B, and of Qwen3.5 what differs.
NEXT: dict[str, Any] = {
    "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16,
    "num_key_value_heads": 2, "head_dim": 256, "intermediate_size": 5120, "vocab_size": 151936,
    "max_position_embeddings": 262144, "rope_theta": 1e7, "partial_rotary_factor": 0.25,
    "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512, "norm_topk_prob": True,
    "shared_expert_intermediate_size": 512, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip


def read(**changes: Any) -> HybridConfig:
    config = registry.from_hf({**NEXT, **changes})
    assert isinstance(config, HybridConfig)
    return config


def test_sizes_as_published() -> None:
    config = read()
    assert config.attends == set(range(3, 48, 4))
    assert 2 * len(config.rope.inv_freq) == 64
    graph = registry.describe(config).graph("logits")
    assert 4 * sum(prod(state.state) for state in graph.states()) == 36 * (2 * 2**20 + 3 * 8192 * 4)
    assert len(graph.attentions()) == 12
    parameters = sum(prod(weight.shape) for weight in registry.describe(config).weights().values())
    assert round(parameters / 1e9, 1) == 79.7


def test_experts_are_in_every_layer_or_in_none() -> None:
    dense = {name: value for name, value in NEXT.items() if "expert" not in name}
    text = {"model_type": "qwen3_5_text", **{n: v for n, v in dense.items() if n != "model_type"}}
    whole = registry.from_hf({"model_type": "qwen3_5", "text_config": text, "tie_word_embeddings": True})
    assert isinstance(whole, HybridConfig)
    assert whole.experts is None
    assert not whole.tied_head  # the text's own word
    del text["tie_word_embeddings"]
    assert registry.from_hf(
        {"model_type": "qwen3_5", "text_config": text, "tie_word_embeddings": True}
    ).tied_head
    mixed = registry.from_hf({**NEXT, "model_type": "qwen3_5_moe_text"})
    assert isinstance(mixed, HybridConfig)
    assert mixed.experts is not None
    assert (mixed.experts.count, mixed.experts.normalised) == (512, True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"layer_types": ["linear_attention"] * 47 + ["sliding_attention"]}, "'sliding_attention' is not"),
        ({"layer_types": ["linear_attention"] * 3}, "layer_types should list the kinds of 48 layers"),
        ({"layer_types": 3}, "layer_types should list"),
        ({"linear_num_key_heads": 5}, "linear_num_key_heads is 5, which does not divide the 32"),
        ({"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim must be from 2 to 16"),
        ({"linear_key_head_dim": None}, "linear_key_head_dim is missing"),
        ({"partial_rotary_factor": 1 / 256}, "rotating part of a head"),
        ({"num_experts_per_tok": 513}, "num_experts_per_tok is 513, of 512 experts"),
        ({"model_type": "qwen3_5_text", "attn_output_gate": False}, "attn_output_gate false is not"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SampanError, match=said):
        read(**changes)
