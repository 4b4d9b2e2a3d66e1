"""What an adapter makes of one tensor of a model, in float32: products, DoRA, other rows, another tensor.

Formulas are PEFT's (tuners/lora/layer.py, dora.py, trainable_tokens/layer.py). A change gives rows for rows,
so that no tensor need be there whole but those that PiSSA and OLoRA decompose.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import WeightsError
from sampan.kernels.formats import dequantise
from sampan.weights.files import MappedFile, TensorInfo
from sampan.weights.lora import LowRank, values_of, wrong

Floats = NDArray[np.float32]
Shape = tuple[int, ...]
Rows = Callable[[int, int], Floats]
"""Rows [start, stop) of a tensor; of a vector its elements."""
Step = Callable[[Floats, int, Floats], Floats]
"""Rows as other changes left them, the first one's number, the same rows as they were before any change."""
Factors = Callable[[], tuple[Floats, Floats]]
"""Left [rows, rank] and right [rank, columns], whose product is added; the scale is within them."""

_VALUES = 2**22  # looked at together


class Change(Protocol):
    """One adapter's change of a tensor."""

    def step(self, base: Rows, shape: Shape) -> Step:
        """Ready for the rows of a tensor, which `base` has as they were before."""


def linear(low: LowRank) -> Factors:
    """B A of a matrix, or of some of a module's rows."""
    return lambda: (low.b(), low.a())


def embedded(file: MappedFile, a: TensorInfo, b: TensorInfo, scale: float) -> Factors:
    """(B A)^T of an embedding: A [rank, vocabulary], B [hidden, rank]."""
    return lambda: (values_of(file, a).T, values_of(file, b).T * np.float32(scale))


def stacked(
    file: MappedFile, a: TensorInfo, b: TensorInfo, scale: float, expert: tuple[int, int], rows: slice
) -> Factors:
    """B A of one expert (its number, and how many there are), of A [experts * rank, inputs] and B [outputs,
    rank * experts], whose columns go through the experts first (PEFT's ParamWrapper); `rows`: of B."""
    number, count = expert
    rank = a.shape[0] // count

    def factors() -> tuple[Floats, Floats]:
        left = values_of(file, b)[rows, number::count] * np.float32(scale)
        return left, values_of(file, a)[number * rank : (number + 1) * rank]

    return factors


@dataclass(frozen=True, eq=False)
class Added:
    """W + left @ right."""

    factors: Factors

    def step(self, base: Rows, shape: Shape) -> Step:  # noqa: ARG002
        """See `Change`."""
        left, right = self.factors()
        return lambda rows, start, _: rows + left[start : start + len(rows)] @ right


@dataclass(frozen=True, eq=False)
class Directed:
    """DoRA (arXiv:2402.09353): (W + left @ right) * magnitude / |base + left @ right|. Norms are of outputs:
    of rows, or `by_column` of an embedding's columns."""

    factors: Factors
    magnitude: Floats
    by_column: bool = False

    def step(self, base: Rows, shape: Shape) -> Step:
        """See `Change`."""
        left, right = self.factors()
        columns = self.magnitude / _column_norms(base, shape, left, right) if self.by_column else None

        def directed(rows: Floats, start: int, before: Floats) -> Floats:
            delta = left[start : start + len(rows)] @ right
            if columns is not None:
                turned: Floats = (rows + delta) * columns
                return turned
            own = self.magnitude[start : start + len(rows)]
            with np.errstate(divide="ignore", invalid="ignore"):
                scale: Floats = own / np.linalg.norm(before + delta, axis=1)
            found: Floats = (rows + delta) * scale[:, None]
            return found

        return directed


def _column_norms(base: Rows, shape: Shape, left: Floats, right: Floats) -> Floats:
    total = np.zeros(shape[1])
    step = max(1, _VALUES // shape[1])
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        total += np.square(base(start, stop) + left[start:stop] @ right, dtype=np.float64).sum(axis=0)
    norms: Floats = np.sqrt(total).astype(np.float32)
    return norms


@dataclass(frozen=True, eq=False)
class Shifted:
    """A vector added to a bias."""

    values: Floats

    def step(self, base: Rows, shape: Shape) -> Step:  # noqa: ARG002
        """See `Change`."""
        return lambda rows, start, _: rows + self.values[start : start + len(rows)]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Other rows for some tokens."""

    indices: NDArray[np.intp]
    values: Floats

    def step(self, base: Rows, shape: Shape) -> Step:  # noqa: ARG002
        """See `Change`."""

        def replaced(rows: Floats, start: int, _before: Floats) -> Floats:
            inside = (self.indices >= start) & (self.indices < start + len(rows))
            out = rows.copy()
            out[self.indices[inside] - start] = self.values[inside]
            return out

        return replaced


@dataclass(frozen=True)
class Residual:
    """What an initialisation takes away from a matrix before training: PiSSA (arXiv:2404.02948) the best
    approximation of its rank, OLoRA (arXiv:2406.01775) `scale` times what its first columns span."""

    kind: str
    rank: int
    scale: float

    def left_of(self, base: Rows, shape: Shape) -> Rows:
        """The matrix without it; the whole is decomposed at once, in float64."""
        whole = base(0, shape[0]).astype(np.float64)
        if self.kind == "pissa":
            u, s, v = np.linalg.svd(whole, full_matrices=False)
            taken = (u[:, : self.rank] * s[: self.rank]) @ v[: self.rank]
        else:
            q, _ = np.linalg.qr(whole[:, : self.rank])
            taken = self.scale * (q @ (q.T @ whole))
        left = (whole - taken).astype(np.float32)
        return lambda start, stop: left[start:stop]


@dataclass(frozen=True, eq=False)
class Brought:
    """A whole tensor that stands in the place of the model's."""

    file: MappedFile
    info: TensorInfo

    def rows(self, start: int, stop: int) -> Floats:
        """Some of it."""
        info = self.info
        each = info.nbytes // info.shape[0]
        raw = self.file.view(info.offset + start * each, (stop - start) * each)
        values = dequantise(raw, info.type, (stop - start, *info.shape[1:]))
        if not np.isfinite(values).all():
            raise wrong(info, "holds values that are not finite numbers: the file is damaged")
        return values

    def part(self, first: int) -> Rows:
        """Its rows from `first` on."""
        return lambda start, stop: self.rows(first + start, first + stop)


def changed(base: Rows, shape: Shape, changes: Sequence[Change], name: str) -> Rows:
    """Rows of a tensor with all changes, one after another."""
    steps = [change.step(base, shape) for change in changes]

    def rows(start: int, stop: int) -> Floats:
        before = after = base(start, stop)
        for step in steps:
            after = step(after, start, before)
        if not np.isfinite(after).all():
            raise WeightsError(f"tensor {name}: merged, it holds values that are not finite numbers")
        return after.astype(np.float32, copy=False)

    return rows
