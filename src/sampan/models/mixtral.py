"""Mixtral (arXiv:2401.04088): Mixtral-8x7B, Mixtral-8x22B."""

from collections.abc import Mapping
from typing import Any

from sampan.core.errors import UnsupportedModel
from sampan.models import llama, mixture, sparse
from sampan.models.config import GgufModel, dense_from_hf, dense_to_hf
from sampan.models.family import LAYER, Family
from sampan.models.fields import Fields

_WEIGHTS = {"gate": "w1", "up": "w3", "down": "w2"}
_NAMES = mixture.Names(router="block_sparse_moe.gate.weight", expert="block_sparse_moe.experts.", **_WEIGHTS)
# Files of before 2024-04 have a tensor for each expert.
_LAYER = {
    **LAYER,
    "ffn_gate_inp": "block_sparse_moe.gate",
    **{f"ffn_{kind}_exps": f"block_sparse_moe.experts.{w}" for kind, w in _WEIGHTS.items()},
    **{f"ffn_{kind}.*": f"block_sparse_moe.experts.*.{w}" for kind, w in _WEIGHTS.items()},
}


def read_hf(fields: Fields) -> sparse.SparseConfig:
    """Of a `config.json`."""
    if fields.values.get("sliding_window"):
        raise UnsupportedModel(f"{fields.source}: sliding-window attention is not supported")
    experts = mixture.experts_of(fields, "num_local_experts", "num_experts_per_tok", "intermediate_size")
    return sparse.sparse(dense_from_hf(fields, "mixtral"), experts)


def read_gguf(model: GgufModel) -> sparse.SparseConfig:
    """Of a GGUF file, which calls it a Llama with experts."""
    return sparse.sparse_from_gguf(model, "mixtral", ffn="feed_forward_length")


def to_hf(c: sparse.SparseConfig, metadata: Mapping[str, object]) -> dict[str, object]:
    """The `config.json` of a GGUF file's model."""
    sizes = {"num_local_experts": c.experts.count, "num_experts_per_tok": c.experts.chosen}
    return dense_to_hf(c, metadata) | sizes


def build(c: sparse.SparseConfig) -> Any:
    """The weights by their Hugging Face names."""
    return sparse.build(c, _NAMES)


def parts(_c: sparse.SparseConfig, name: str, shape: tuple[int, ...]) -> Mapping[str, int]:
    """See `Family.parts`."""
    return mixture.parts(_NAMES, name, shape)


FAMILY = Family(
    name="mixtral",
    from_hf=read_hf,
    from_gguf=read_gguf,
    to_hf=to_hf,
    architectures=("llama",),
    special=lambda model: model.fields().integer("expert_count", 0, low=0, high=2**16) > 0,
    layer=_LAYER,
    interleaved=llama.FAMILY.interleaved,
    build=build,
    forward=sparse.forward,
    parts=parts,
)
