"""LoRA adapters for the kernels: A and B of each part in panels, at the file's precision."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.kernels.backend import Adapter
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.machine import Machine, blocked, out_of_memory, padded, widened
from sampan.kernels.formats import TensorType
from sampan.kernels.tensors import Floats


def packed_adapter(adapter: Adapter, machine: Machine) -> dict[str, tuple[Any, Any]]:
    """A and B, which has the scale and zeros up to a rank of whole panels, by the weight's name."""
    arena = _native.Arena()
    shared: dict[str, Any] = {}
    packed = {}
    try:
        for part in adapter.parts:
            if part.key not in shared:
                a = part.a()
                shared[part.key] = _pack(widened(a, blocked(a.shape[1])), adapter.halves, machine, arena)
            b = part.b()
            wide = widened(b, padded(b.shape[1]))
            packed[part.weight.name] = shared[part.key], _pack(wide, adapter.halves, machine, arena)
    except MemoryError as e:
        raise out_of_memory(f"the adapter {adapter.where}") from e
    return packed


def bytes_of(adapter: Adapter) -> int:
    """What `packed_adapter` takes at most: B times its scale may need four bytes where the file has two."""
    each = {part.key: padded(part.rank) * blocked(part.weight.shape[1]) for part in adapter.parts}
    b = sum(padded(part.weight.shape[0]) * padded(part.rank) for part in adapter.parts)
    return (2 if adapter.halves else 4) * sum(each.values()) + 4 * b


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
