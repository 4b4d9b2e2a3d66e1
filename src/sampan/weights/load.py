"""Packs a checkpoint's weights for the kernels, once, at the file's own precision.

Each tensor's pages are given back to the system as soon as it is packed, so that loading never holds the
file twice.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.kernels import _native  # type: ignore[attr-defined]
from sampan.kernels.native import Machine, out_of_memory, padded
from sampan.kernels.ops import Linear, Weight
from sampan.kernels.program import Floats, Segment
from sampan.weights.checkpoint import Checkpoint


class PackedWeights:
    """A checkpoint as the recorder reads it (`kernels.program.WeightSource`); packs at the first request."""

    def __init__(self, checkpoint: Checkpoint, machine: Machine) -> None:
        self.checkpoint = checkpoint
        self.machine = machine
        self._segments: dict[tuple[str, ...], list[Segment]] = {}
        self._vectors: dict[str, Floats] = {}

    def segments(self, weight: Linear) -> Sequence[Segment]:
        """Packed matrices of a linear: neighbouring parts of one type share a matrix."""
        key = tuple(part.name for part in weight.parts)
        if key not in self._segments:
            self._segments[key] = self._pack(weight.parts)
        return self._segments[key]

    def vector(self, weight: Weight) -> Floats:
        """A norm's weight or a bias as float32."""
        if weight.name not in self._vectors:
            self._vectors[weight.name] = np.ascontiguousarray(self.checkpoint.array(weight.name))
        return self._vectors[weight.name]

    @property
    def bytes(self) -> int:
        """Memory of the packed weights."""
        matrices = {id(s.matrix): s.matrix for parts in self._segments.values() for s in parts}
        vectors = sum(vector.nbytes for vector in self._vectors.values())
        return vectors + sum(int(matrix.data.nbytes) for matrix in matrices.values())

    def _pack(self, parts: tuple[Weight, ...]) -> list[Segment]:
        segments: list[Segment] = []
        offset = 0
        for (kind, fine), run in groupby(parts, key=lambda p: (self.checkpoint.tensors[p.name].type, p.fine)):
            matrix = self._matrix(list(run), kind.number)
            segments.append(Segment(matrix, offset, kind.quantised, fine))
            offset += padded(matrix.n)
        return segments

    def _matrix(self, parts: list[Weight], source: int) -> Any:
        rows, inputs = sum(padded(p.shape[0]) for p in parts), parts[0].shape[1]
        last = parts[-1].shape[0]
        rows += last - padded(last)
        try:
            matrix = _native.Packed.of(rows, inputs, source)
        except MemoryError as e:
            raise out_of_memory(f"the weights of {parts[0].name}") from e
        except ValueError as e:
            raise UnsupportedModel(f"{self.checkpoint.path}: tensor {parts[0].name!r}: {e}") from e
        first = 0
        for part in parts:
            order = self.checkpoint.row_order(part.name)
            rows_of_part = None if order is None else np.ascontiguousarray(order, np.int32)
            raw = self.checkpoint.raw(part.name)
            matrix.fill(self.machine.pool, raw, source, first, part.shape[0], rows_of_part)
            del raw
            self.checkpoint.release(part.name)
            first += padded(part.shape[0])
        return matrix


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
