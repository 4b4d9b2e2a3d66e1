"""Low-rank adapters whose numbers are trained (arXiv:2106.09685): y += scale * B (A x).

`TrainedAdapter` is what the engine takes, and what the backward pass gives gradients to.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sampan.core.errors import UsageError, shortened
from sampan.kernels.backend import AdapterRoom, Executable
from sampan.kernels.ops import Weight
from sampan.kernels.tensors import Floats
from sampan.llm.model import LLM
from sampan.models.config import ModelConfig
from sampan.weights.lora_gguf import read_adapter


@dataclass(frozen=True, eq=False)
class LowRank:
    """A [rank, inputs] and B [outputs, rank] of one weight, float32."""

    weight: Weight
    matrix_a: Tensor
    matrix_b: Tensor
    scale: float

    @property
    def key(self) -> str:
        """Of A: none is shared."""
        return self.weight.name

    @property
    def rank(self) -> int:
        """Inner size of the product."""
        return len(self.matrix_a)

    def a(self) -> Floats:
        """[rank, inputs]."""
        values: Floats = self.matrix_a.detach().numpy()
        return values

    def b(self) -> Floats:
        """[outputs, rank], times the scale."""
        values: Floats = (self.matrix_b.detach() * self.scale).numpy()
        return values


@dataclass(frozen=True, eq=False)
class TrainedAdapter:
    """An adapter of all its parts; see `kernels.backend.Adapter`."""

    parts: Sequence[LowRank]
    rank: int
    where: str = "the adapter in training"
    halves: bool = False

    name: ClassVar[str] = "in training"
    """For requests to the engine."""
    slot: ClassVar[int] = 0
    learnt: ClassVar[Mapping[str, Tensor]] = {}

    @classmethod
    def begin(cls, weights: Sequence[Weight], rank: int, alpha: float, seed: int) -> "TrainedAdapter":
        """See `renew`."""
        parts = []
        for weight in weights:
            outputs, inputs = weight.shape
            a, b = (
                torch.empty(rank, inputs, requires_grad=True),
                torch.empty(outputs, rank, requires_grad=True),
            )
            parts.append(LowRank(weight, a, b, alpha / rank))
        adapter = cls(tuple(parts), rank)
        adapter.renew(seed)
        return adapter

    def renew(self, seed: int) -> None:
        """A drawn as PEFT draws it (uniform, of variance 1 / (3 inputs)), B zero: it changes nothing yet."""
        generator = np.random.default_rng(seed)
        with torch.no_grad():
            for part in self.parts:
                bound = 1 / sqrt(part.matrix_a.shape[1])
                drawn = generator.uniform(-bound, bound, part.matrix_a.shape).astype(np.float32)
                part.matrix_a.copy_(torch.from_numpy(drawn))
                part.matrix_b.zero_()

    def start(self, path: Path, config: ModelConfig) -> None:
        """Take the numbers of an adapter of the same rank and modules. Raises `UsageError` for another one,
        and what `read_adapter` does."""
        own = {part.weight.name: part for part in self.parts}
        with closing(
            read_adapter(path, config, {part.weight.name: part.weight for part in self.parts})
        ) as file:
            found = {part.weight.name: part for part in file.parts}
            if file.passed or found.keys() != own.keys():
                raise UsageError(
                    f"lora.start {shortened(path)}: adapts other modules than lora.modules names"
                )
            ranks = {part.rank for part in file.parts}
            if ranks != {self.rank}:
                raise UsageError(
                    f"lora.start {shortened(path)}: has rank {max(ranks)}: give lora.rank the same"
                )
            with torch.no_grad():
                for name, part in own.items():
                    part.matrix_a.copy_(torch.from_numpy(found[name].a()))
                    part.matrix_b.copy_(torch.from_numpy(found[name].b()).div_(part.scale))

    @property
    def parameters(self) -> list[Tensor]:
        """What an optimizer changes."""
        return [matrix for part in self.parts for matrix in (part.matrix_a, part.matrix_b)]

    @property
    def named(self) -> dict[str, Tensor]:
        """By PEFT's names within the model."""
        found: dict[str, Tensor] = {}
        for part in self.parts:
            module = part.weight.name.removesuffix(".weight")
            found[f"{module}.lora_A.weight"] = part.matrix_a
            found[f"{module}.lora_B.weight"] = part.matrix_b
        return found

    @property
    def low_ranks(self) -> Mapping[str, LowRank]:
        """By the weight that each adapts."""
        return {part.weight.name: part for part in self.parts}

    @property
    def room(self) -> AdapterRoom:
        """That the trainer's program needs for it."""
        return AdapterRoom(1, self.rank)

    def publish(self, llm: LLM, trainer: Executable) -> int:
        """Make the numbers what both compute with from now on; returns the version that they make."""
        trainer.set_adapter(self.slot, self)
        return llm.put_adapter(self.name, self)
