"""Our table of names against the `gguf` package's."""

import gguf
import pytest

from sampan.models.registry import family_named

NAMES = family_named("qwen3", "family")

LAYER = (
    "input_layernorm self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj self_attn.q_norm "
    "self_attn.k_norm post_attention_layernorm mlp.gate_proj mlp.up_proj mlp.down_proj"
)


def test_names_are_those_of_the_gguf_package() -> None:
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 12)
    everywhere = ["model.embed_tokens", "model.norm", "lm_head"]
    for name in everywhere + [f"model.layers.{n}.{part}" for n in (0, 11) for part in LAYER.split()]:
        assert NAMES.canonical(f"{table.get_name(name)}.weight") == f"{name}.weight"
    assert NAMES.canonical("blk.3.attn_k.bias") == "model.layers.3.self_attn.k_proj.bias"


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_qkv.weight", "blk.x.attn_q.weight", "blk.0.attn_q.scale", "output", "", "blk.0.attn_q"],
)
def test_other_names_are_nobodys(name: str) -> None:
    assert NAMES.canonical(name) is None
