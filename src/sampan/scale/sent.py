"""An adapter's numbers on their way to other machines: a copy, which no later step of the trainer changes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sampan.kernels.backend import LowRank
from sampan.kernels.ops import Weight
from sampan.kernels.tensors import Floats


@dataclass(frozen=True, eq=False)
class SentPart:
    """See `kernels.backend.LowRank`."""

    weight: Weight
    key: str
    rank: int
    matrix_a: Floats
    matrix_b: Floats

    def a(self) -> Floats:
        """[rank, inputs]."""
        return self.matrix_a

    def b(self) -> Floats:
        """[outputs, rank], times the scale."""
        return self.matrix_b


@dataclass(frozen=True, eq=False)
class SentAdapter:
    """See `kernels.backend.Adapter`."""

    parts: Sequence[LowRank]
    rank: int
    where: str = "the adapter in training"
    halves: bool = False

    @classmethod
    def of(cls, given: Iterable[LowRank]) -> "SentAdapter":
        """A copy of all numbers."""
        parts = tuple(
            SentPart(part.weight, part.key, part.rank, np.array(part.a()), np.array(part.b()))
            for part in given
        )
        return cls(parts, max(part.rank for part in parts))
