"""LoRA adapters for the kernels: A and B of each part in panels, at the file's precision."""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.kernels.backend import Adapter, LowRank
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.machine import Machine, blocked, out_of_memory, padded, widened
from sampan.kernels.formats import TensorType
from sampan.kernels.tensors import Floats


def packed_adapter(
    adapter: Adapter, machine: Machine, turned: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """A and B, which have zeros up to whole blocks and panels, by the weight's name. `turned`: weights whose
    products read them transposed; there B' A' is the transposed of B A, and the scale within A'."""
    arena = _native.Arena()
    shared: dict[tuple[str, bool], Any] = {}
    packed = {}
    try:
        for part in adapter.parts:
            key = _key(part, turned)
            if key not in shared:
                a = part.a()
                wide = (
                    widened(a.T, padded(part.rank))
                    if part.weight.name in turned
                    else widened(a, blocked(a.shape[1]))
                )
                shared[key] = _pack(wide, adapter.halves, machine, arena)
            b = part.b()
            wide = (
                widened(b.T, blocked(len(b))) if part.weight.name in turned else widened(b, padded(part.rank))
            )
            own = _pack(wide, adapter.halves, machine, arena)
            both = (own, shared[key]) if part.weight.name in turned else (shared[key], own)
            packed[part.weight.name] = both
    except MemoryError as e:
        raise out_of_memory(adapter.where) from e
    return packed


def bytes_of(adapter: Adapter, turned: Collection[str] = ()) -> int:
    """What `packed_adapter` takes at most: B times its scale may need four bytes where the file has two."""
    a, b = {}, 0
    for part in adapter.parts:
        outputs, inputs = part.weight.shape
        if part.weight.name in turned:
            outputs, inputs = blocked(outputs), padded(inputs)
        else:
            outputs, inputs = padded(outputs), blocked(inputs)
        a[_key(part, turned)] = padded(part.rank) * inputs
        b += padded(part.rank) * outputs
    return (2 if adapter.halves else 4) * sum(a.values()) + 4 * b


def _key(part: LowRank, turned: Collection[str]) -> tuple[str, bool]:
    """Of A as it is packed: one module's may be read both ways."""
    return part.key, part.weight.name in turned


def _pack(values: Floats, halves: bool, machine: Machine, arena: Any) -> Any:
    """A matrix for the kernels that reads float32: f16 where its file has that and it holds the values."""
    raw, source = _encoded(values, halves)
    matrix = _native.Packed.of(*values.shape, source.number, arena)
    matrix.fill(machine.pool, raw, source.number, 0, len(values))
    return matrix


def _encoded(values: Floats, halves: bool) -> tuple[NDArray[np.uint8], TensorType]:
    if halves:
        with np.errstate(over="ignore"):
            half = values.astype("<f2")
        if np.array_equal(half.astype(np.float32), values):
            return half.reshape(-1).view(np.uint8), TensorType.F16
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8), TensorType.F32
