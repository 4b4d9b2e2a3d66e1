"""New values for packed weights, in place and in the formats that they have.

Floats are rounded to the nearest value that the matrix can hold; integer formats get new codes and scales:
8 bits and 4 bits with a minimum as `sampan quantize` writes them, the others by the range of each group. E4M3
gets scales that make the largest value of a block 448.
Everything is checked before anything is written: an update is made whole or not at all.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sampan.core.errors import UnsupportedModel, WeightsError, quoted
from sampan.kernels.backend import NewValues
from sampan.kernels.cpu.layout import E4M3 as E4M3_STORE
from sampan.kernels.cpu.machine import LANES, Machine, padded, widened
from sampan.kernels.cpu.panels import Place
from sampan.kernels.cpu.rounding import Scheme, quantise
from sampan.kernels.formats import E4M3, Codes, TensorType, rounded
from sampan.kernels.ops import Weight
from sampan.kernels.tensors import Floats

_FLOATS = {3: TensorType.F16, 4: TensorType.BF16, 5: TensorType.F32}  # by `store` of kernels.h
_BITS = {0: 4, 1: 6, 2: 8}
_HALF_MAX = 65504.0
_TASK = 2**18  # values that a thread converts at a time


def update(
    tensors: NewValues, weights: Mapping[str, Weight], place: Callable[[Weight], Place], machine: Machine
) -> None:
    """Write them where the model's weights are. Raises `WeightsError` or `UnsupportedModel`, and has then
    written nothing."""
    places = {name: _checked(tensors, name, weights, place) for name in tensors.shapes}
    with ThreadPoolExecutor(machine.threads) as threads:
        work = list(_work(tensors))
        for _ in threads.map(lambda some: _check_values(tensors, places[some[0]], *some), work):
            pass  # raises what a task raised
        for _ in threads.map(lambda some: _write(machine, tensors, places[some[0]], *some), work):
            pass


def _checked(
    tensors: NewValues, name: str, weights: Mapping[str, Weight], place: Callable[[Weight], Place]
) -> Place:
    if name not in weights:
        raise WeightsError(f"{tensors.where}: tensor {quoted(name)} has no place in the model")
    if tensors.shapes[name] != weights[name].shape:
        problem = (
            f"has shape {quoted(list(tensors.shapes[name]))}, the model's is {list(weights[name].shape)}"
        )
        raise WeightsError(f"{tensors.where}: tensor {name} {problem}")
    found = place(weights[name])
    if found.matrix is not None and not found.matrix.writable:
        raise UnsupportedModel(
            f"{tensors.where}: tensor {name} is mapped from a file of packed weights, which is only read: "
            "load the model that it was made from"
        )
    return found


def _work(tensors: NewValues) -> Iterator[tuple[str, int, int]]:
    """Name and rows [start, stop): whole panels, about `_TASK` values."""
    for name, (rows, *inputs) in tensors.shapes.items():
        step = padded(max(_TASK // inputs[0], LANES)) if inputs else rows
        for start in range(0, rows, step):
            yield name, start, min(start + step, rows)


def _check_values(tensors: NewValues, place: Place, name: str, start: int, stop: int) -> None:
    values = tensors.rows(name, start, stop)
    top = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(top):
        raise WeightsError(f"{tensors.where}: tensor {name} holds values that are not finite numbers")
    m = place.matrix
    halves = m is not None and (_FLOATS.get(m.store) is TensorType.F16 or (m.store in _BITS and not m.wide))
    if halves and top > _HALF_MAX:
        raise WeightsError(f"{tensors.where}: tensor {name} holds {top:g}, which is too large for float16")


def _write(machine: Machine, tensors: NewValues, place: Place, name: str, start: int, stop: int) -> None:
    values, m = tensors.rows(name, start, stop), place.matrix
    for vector in place.vectors:
        vector[start:stop] = values + np.float32(place.offset) if place.offset else values
    if m is None:
        return
    first, values = place.first + start, widened(values, m.k)
    if m.store in _FLOATS:
        type = _FLOATS[m.store]
        m.fill(machine.pool, rounded(values, type), type.number, first, len(values))
        return
    codes = _e4m3(values, m) if m.store == E4M3_STORE else _codes(values, m)
    wide = m.wide or m.store == E4M3_STORE
    kind = np.float32 if wide else np.float16
    scale, minimum = (None if x is None else x.astype(kind) for x in (codes.scale, codes.minimum))
    if not wide:
        scale, minimum = (None if x is None else x.view(np.uint16) for x in (scale, minimum))
    m.fill_codes(machine.pool, codes.q, scale, minimum, first)


def _e4m3(values: Floats, m: Any) -> Codes:
    """The nearest codes, even ones of two, under the scale of each block's largest value."""
    rows, inputs = values.shape
    height, groups = 1 if m.wide else LANES, -(-inputs // m.group)
    blocks = np.zeros((-(-rows // height) * height, groups * m.group), np.float32)
    blocks[:rows, :inputs] = np.abs(values)
    top = blocks.reshape(-1, height, groups, m.group).max(axis=(1, 3)) / E4M3[126]
    scale = np.repeat(np.maximum(top, np.finfo(np.float32).tiny), height, axis=0)[:rows]
    size = np.abs(values) / scale[:, np.arange(inputs) // m.group]
    middle = (E4M3[:126] + E4M3[1:127]) / 2
    code = np.searchsorted(middle, size)
    code += (code % 2 == 1) & (size == middle[np.minimum(code, 125)])
    return Codes((code | np.signbit(values) << 7).astype(np.uint8), scale, None, 0, m.group, 8)


def _codes(values: Floats, m: Any) -> Codes:
    """Codes for a matrix's own format."""
    bits = _BITS[m.store]
    scheme = Scheme(bits, m.group)
    if not m.wide and bits in (4, 8) and (m.has_min, m.zero) == (scheme.has_min, scheme.zero):
        return quantise(values, scheme)
    groups, top = values.reshape(-1, m.group), 2**bits - 1
    low, high = groups.min(axis=1), groups.max(axis=1)
    if m.has_min:
        minimum = low if m.wide else low.astype(np.float16).astype(np.float32)
        scale = (high - minimum) / np.float32(top)
    else:
        minimum, scale = None, np.maximum(-low / np.float32(m.zero), high / np.float32(top - m.zero))
    scale = np.maximum(scale, 0) if m.wide else np.maximum(scale, 0).astype(np.float16).astype(np.float32)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    above = groups if minimum is None else groups - minimum[:, None]
    q = np.clip(np.rint(above * inverse[:, None]) + np.float32(m.zero), 0, top).astype(np.uint8)
    shape = (len(values), values.shape[1] // m.group)
    least = None if minimum is None else minimum.reshape(shape)
    return Codes(q.reshape(values.shape), scale.reshape(shape), least, m.zero, m.group, bits)
