"""Families by name: the only place that lists them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

from sampan.core.errors import UnsupportedModel
from sampan.kernels.ops import Batch, Ops, Weight
from sampan.models import llama, qwen2, qwen3
from sampan.models.config import ModelConfig


class Family(Protocol):
    """A model file."""

    def build(self, c: ModelConfig) -> Any:
        """The model's description."""

    def forward(self, ops: Ops, model: Any, batch: Batch) -> Any:
        """Logits of the sampled rows."""


FAMILIES: dict[str, Any] = {"llama": llama, "qwen2": qwen2, "qwen3": qwen3}


@dataclass(frozen=True)
class Model:
    """A described model and how it runs."""

    config: ModelConfig
    description: Any
    family: Family

    def forward(self, ops: Ops, batch: Batch) -> Any:
        """Logits of the sampled rows."""
        return self.family.forward(ops, self.description, batch)

    def weights(self) -> dict[str, Weight]:
        """Every tensor the model needs, by name."""
        return {w.name: w for w in _weights(self.description)}


def describe(config: ModelConfig) -> Model:
    """The model of this configuration, or UnsupportedModel."""
    family = FAMILIES.get(config.family)
    if family is None:
        raise UnsupportedModel(
            f"model family {config.family!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    return Model(config, family.build(config), family)


def _weights(node: Any) -> Iterator[Weight]:
    if isinstance(node, Weight):
        yield node
    elif isinstance(node, tuple):
        for item in node:
            yield from _weights(item)
    elif is_dataclass(node):
        for field in fields(node):
            yield from _weights(getattr(node, field.name))
