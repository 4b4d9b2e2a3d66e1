"""Qwen2's and Qwen1.5's mixtures of experts (arXiv:2407.10671), with a gated expert that all tokens share:
Qwen2-57B-A14B."""

from sampan.models.config import dense_from_hf
from sampan.models.family import Family
from sampan.models.fields import Fields
from sampan.models.mixture import experts_of
from sampan.models.qwen3_moe import dense_layers, expert_count
from sampan.models.sparse import SparseConfig, build, forward, parts, sparse

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


FAMILY = Family(name="qwen2_moe", from_hf=read_hf, build=build, forward=forward, parts=parts)
