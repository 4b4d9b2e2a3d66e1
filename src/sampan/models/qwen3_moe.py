"""Qwen3's mixtures of experts (arXiv:2505.09388): Qwen3-30B-A3B, Qwen3-235B-A22B."""

from sampan.models.config import GgufModel, dense_from_hf
from sampan.models.family import Family
from sampan.models.fields import Fields
from sampan.models.mixture import experts_of
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


def read_hf(fields: Fields) -> SparseConfig:
    """Of a `config.json`."""
    bias = fields.flag("attention_bias", False)
    c = dense_from_hf(fields, "qwen3_moe", qkv_bias=bias, out_bias=bias)
    experts = experts_of(
        fields,
        expert_count(fields),
        "num_experts_per_tok",
        "moe_intermediate_size",
        normalised=fields.flag("norm_topk_prob", False),
    )
    return sparse(c, experts, dense=dense_layers(fields, c.layers), head_norms=True)


def read_gguf(model: GgufModel) -> SparseConfig:
    """Of a GGUF file, which does not say that weights are normalised: they are."""
    return sparse_from_gguf(model, "qwen3_moe", head_norms=True)


def expert_count(fields: Fields) -> str:
    """The field that counts them: transformers 5 writes another than the models were published with."""
    return "num_local_experts" if "num_local_experts" in fields else "num_experts"


def dense_layers(fields: Fields, layers: int) -> frozenset[int]:
    """Layers with an MLP: those that are listed, and all but every `decoder_sparse_step`th."""
    listed = fields.values.get("mlp_only_layers") or []
    if not isinstance(listed, list) or not all(type(each) is int for each in listed):
        raise fields.fail("mlp_only_layers", "should be a list of layers")
    step = fields.integer("decoder_sparse_step", 1, high=layers + 1)
    return frozenset(each for each in range(layers) if each in listed or (each + 1) % step)


FAMILY = Family(
    name="qwen3_moe",
    from_hf=read_hf,
    from_gguf=read_gguf,
    to_hf=sparse_to_hf,
    architectures=("qwen3moe",),
    layer=LAYER,
    build=build,
    forward=forward,
    parts=parts,
)
