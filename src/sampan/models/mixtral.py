"""Mixtral (arXiv:2401.04088): Mixtral-8x7B, Mixtral-8x22B."""

from collections.abc import Mapping
from typing import Any

from sampan.core.errors import UnsupportedModel
from sampan.models import mixture, sparse
from sampan.models.config import dense_from_hf
from sampan.models.family import Family
from sampan.models.fields import Fields

_NAMES = mixture.Names(
    router="block_sparse_moe.gate.weight", expert="block_sparse_moe.experts.", gate="w1", up="w3", down="w2"
)


def read_hf(fields: Fields) -> sparse.SparseConfig:
    """Of a `config.json`."""
    if fields.values.get("sliding_window"):
        raise UnsupportedModel(f"{fields.source}: sliding-window attention is not supported")
    experts = mixture.experts_of(fields, "num_local_experts", "num_experts_per_tok", "intermediate_size")
    return sparse.sparse(dense_from_hf(fields, "mixtral"), experts)


def build(c: sparse.SparseConfig) -> Any:
    """The weights by their Hugging Face names."""
    return sparse.build(c, _NAMES)


def parts(_c: sparse.SparseConfig, name: str, shape: tuple[int, ...]) -> Mapping[str, int]:
    """See `Family.parts`."""
    return mixture.parts(_NAMES, name, shape)


FAMILY = Family(name="mixtral", from_hf=read_hf, build=build, forward=sparse.forward, parts=parts)
