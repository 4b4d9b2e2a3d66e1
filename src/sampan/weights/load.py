"""Brings weights to the kernels: packed once, at the file's own precision, or mapped as they lie.

Each tensor's pages are given back to the system as soon as it is packed, so that loading never holds the
file twice. A folder of packed weights (`weights/packed.py`) is used where it lies, with no work and no copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from sampan.core.errors import UnsupportedModel, WeightsError, shortened
from sampan.kernels import _native  # type: ignore[attr-defined]
from sampan.kernels.native import Machine, Operand, out_of_memory, padded
from sampan.kernels.ops import Linear, Weight
from sampan.kernels.program import Floats, Segment
from sampan.weights.checkpoint import Checkpoint
from sampan.weights.packed import stacked

_U8, _BF16 = 2, 4  # stores of kernels.h: the last of the integers, and bf16
_STRIDE = 2**23  # bytes of a file that are packed before they are given back


@dataclass(frozen=True)
class Place:
    """Where a weight is kept: rows of a packed matrix from `first` on, or vectors that hold copies of it."""

    matrix: Any = None
    first: int = 0
    vectors: tuple[Floats, ...] = ()


class PackedWeights:
    """A checkpoint as the recorder reads it (`kernels.program.WeightSource`); packs at the first request.

    `size`: bytes that the packed weights take, where that is known.
    """

    def __init__(self, checkpoint: Checkpoint, machine: Machine, size: int | None = None) -> None:
        self.checkpoint = checkpoint
        self.machine = machine
        self._arena = _native.Arena(size) if size else _native.Arena()
        self._segments: dict[tuple[str, ...], list[Segment]] = {}
        self._vectors: dict[str, Floats] = {}
        self._places: dict[str, tuple[Any, int]] = {}

    def segments(self, weight: Linear) -> Sequence[Segment]:
        """Packed matrices of a linear: neighbouring parts of one type share a matrix."""
        key = tuple(part.name for part in weight.parts)
        if key not in self._segments:
            self._segments[key] = self._pack(weight.parts)
        # A tied head asks for the embedding's matrix with finer input.
        fine = any(part.fine for part in weight.parts)
        return [replace(s, fine=fine and s.operand is Operand.INT8) for s in self._segments[key]]

    def vector(self, weight: Weight) -> Floats:
        """A norm's weight or a bias as float32."""
        if weight.name not in self._vectors:
            self._vectors[weight.name] = np.ascontiguousarray(self.checkpoint.array(weight.name))
        return self._vectors[weight.name]

    def place(self, weight: Weight) -> Place:
        """Where a weight that was asked for is kept."""
        if weight.name in self._vectors:
            return Place(vectors=(self._vectors[weight.name],))
        return Place(*self._places[weight.name])

    def _pack(self, parts: tuple[Weight, ...]) -> list[Segment]:
        segments: list[Segment] = []
        offset = 0
        for run in _runs(self.checkpoint, parts):
            matrix = self.matrix(run)
            first = 0
            for part in run:
                self._places[part.name] = matrix, first
                first += padded(part.shape[0])
            segments.append(Segment(matrix, offset, _operand(matrix.store), fine=False))
            offset += padded(matrix.n)
        return segments

    def matrix(self, parts: list[Weight]) -> Any:
        """Neighbouring parts of one type as one packed matrix."""
        if parts[0].name in self.checkpoint.packed:
            return _mapped(self.checkpoint, parts)
        return pack(self.checkpoint, parts, self.machine, self._arena)


def _operand(store: int) -> Operand:
    """The rows that a matrix is multiplied with."""
    if store <= _U8:
        return Operand.INT8
    return Operand.BF16 if store == _BF16 else Operand.F32


def allocate(checkpoint: Checkpoint, parts: Sequence[Weight], arena: Any = None) -> Any:
    """An empty matrix for neighbouring parts of one type; its memory is taken as it is filled.

    `arena`: matrices of one native arena share its chunks of memory, and free them together.
    """
    source = checkpoint.tensors[parts[0].name].type.number
    rows, inputs = stacked([part.shape[0] for part in parts]), parts[0].shape[1]
    try:
        return _native.Packed.of(rows, inputs, source, arena)
    except MemoryError as e:
        raise out_of_memory(f"the weights of {parts[0].name}") from e
    except ValueError as e:
        raise UnsupportedModel(f"{checkpoint.path}: tensor {parts[0].name!r}: {e}") from e


def pack(checkpoint: Checkpoint, parts: Sequence[Weight], machine: Machine, arena: Any = None) -> Any:
    """Neighbouring parts of one type in one matrix, without loss."""
    matrix = allocate(checkpoint, parts, arena)
    source = checkpoint.tensors[parts[0].name].type.number
    first = 0
    for part in parts:
        order = checkpoint.row_order(part.name)
        info, rows = checkpoint.tensors[part.name], part.shape[0]
        raw = checkpoint.raw(part.name).reshape(rows, -1)
        rows_of_part = None if order is None else np.ascontiguousarray(order, np.int32)
        # Rows in another order lie anywhere in the tensor.
        step = padded(_STRIDE // raw.shape[1] + 1) if order is None else rows
        for at in range(0, rows, step):
            some = raw[at : at + step]
            matrix.fill(machine.pool, some.reshape(-1), source, first + at, len(some), rows_of_part)
            checkpoint.files[info.file].release(info.offset + at * raw.shape[1], some.nbytes)
        first += padded(rows)
    return matrix


def _runs(checkpoint: Checkpoint, parts: Sequence[Weight]) -> list[list[Weight]]:
    """Neighbouring parts that share a matrix: the one in the file, or one that takes their type."""

    def kind(part: Weight) -> object:
        packed = checkpoint.packed.get(part.name)
        return tuple(packed.parts) if packed else checkpoint.tensors[part.name].type

    return [list(run) for _, run in groupby(parts, key=kind)]


def _mapped(checkpoint: Checkpoint, parts: Sequence[Weight]) -> Any:
    """The packed matrix that holds exactly these parts, on the mapped bytes."""
    m = checkpoint.packed[parts[0].name]
    names = [part.name for part in parts]
    if names != list(m.parts):
        problem = f"holds {shortened(', '.join(m.parts))} together, the model reads {', '.join(names)}"
        raise WeightsError(
            f"{checkpoint.path}: a packed matrix {problem}: write it again with `sampan quantize`"
        )
    try:
        data = checkpoint.panels(names[0])
        return _native.Packed(m.n, m.k, m.store, m.group, m.wide, m.has_min, m.zero, data)
    except ValueError as e:
        raise WeightsError(f"{checkpoint.path}: tensor {names[0]!r}: {e}: the file is damaged") from e


def require_kernel_sizes(checkpoint: Checkpoint) -> None:
    """Sizes that the native kernels are written for; anything else is refused before packing."""
    c = checkpoint.config
    if c.head_dim % 32:
        raise UnsupportedModel(f"{checkpoint.path}: head size {c.head_dim} is not a multiple of 32")
    for field in ("hidden", "ffn"):
        if getattr(c, field) % 32:
            raise UnsupportedModel(
                f"{checkpoint.path}: {field} size {getattr(c, field)} is not a multiple of 32"
            )
    if c.heads % c.kv_heads or c.heads // c.kv_heads > 64:
        raise WeightsError(f"{checkpoint.path}: {c.heads} heads cannot share {c.kv_heads} KV heads")
