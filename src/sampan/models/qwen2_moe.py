"""Qwen2's and Qwen1.5's mixtures of experts (arXiv:2407.10671), with a gated expert that all tokens share:
Qwen2-57B-A14B."""

from sampan.models.config import GgufModel, dense_from_hf
from sampan.models.family import Family
from sampan.models.fields import Fields
from sampan.models.mixture import experts_of
from sampan.models.qwen3_moe import dense_layers, expert_count
from sampan.models.sparse import (
    LAYER,
    SparseConfig,
    build,
    forward,
    parts,
    sparse,
    sparse_from_gguf,
    sparse_to_hf,
)

_MOST_FFN = 2**20


def read_hf(fields: Fields) -> SparseConfig:
    """Of a `config.json`."""
    c = dense_from_hf(fields, "qwen2_moe", qkv_bias=fields.flag("qkv_bias", True))
    experts = experts_of(
        fields,
        expert_count(fields),
        "num_experts_per_tok",
        "moe_intermediate_size",
        normalised=fields.flag("norm_topk_prob", False),
        shared=fields.integer("shared_expert_intermediate_size", high=_MOST_FFN),
        shared_gate=True,
    )
    return sparse(c, experts, dense=dense_layers(fields, c.layers))


def read_gguf(model: GgufModel) -> SparseConfig:
    """Of a GGUF file, which does not say whether weights are normalised: they are not."""
    shared = model.fields().integer("expert_shared_feed_forward_length", high=_MOST_FFN)
    return sparse_from_gguf(
        model, "qwen2_moe", qkv_bias=True, normalised=False, shared=shared, shared_gate=True
    )


FAMILY = Family(
    name="qwen2_moe",
    from_hf=read_hf,
    from_gguf=read_gguf,
    to_hf=sparse_to_hf,
    architectures=("qwen2moe",),
    layer=LAYER,
    build=build,
    forward=forward,
    parts=parts,
)
