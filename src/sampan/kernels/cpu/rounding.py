"""Rounds weights to 8 or 4 bits, and packs them.

w = scale * (q - zero) + minimum over groups of inputs, with float16 scales and minima; codes are chosen for
the scale and minimum as they are rounded. 8 bits: q - 128 from -127 to 127, no minimum. 4 bits: q from 0 to
15, scale and minimum searched for the least squared error: ranges cut at either end, each fitted to its codes
by least squares, the best fitted again. What a model is most sensitive to (embedding, head, and the value and
down projections: llama.cpp's mixtures keep these finer too) stays at 8 bits.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import WeightsError
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.layout import STORES, some_rows, stacked
from sampan.kernels.cpu.machine import Machine, blocked, out_of_memory, widened
from sampan.kernels.formats import Codes, TensorType
from sampan.kernels.ops import Weight
from sampan.kernels.tensors import Tensors

Floats = NDArray[np.float32]

GROUPS = (32, 64, 128)
_SENSITIVE = ("embed_tokens", "lm_head", "v_proj", "down_proj")
_CUTS = (-0.04, -0.01, 0.02, 0.05, 0.09)  # parts of a group's range that a candidate leaves out at one end
_FITS = 2  # of the best candidate
_CHUNK = 2**16  # weights rounded at a time: the temporaries stay in the cache


@dataclass(frozen=True)
class Scheme:
    """How one matrix is rounded: to `bits` (4 or 8), with a scale for each `group` inputs."""

    bits: int
    group: int

    @property
    def has_min(self) -> bool:
        """Whether a group has a minimum beside its scale."""
        return self.bits == 4

    @property
    def zero(self) -> int:
        """The code that stands for zero, where there is no minimum."""
        return 0 if self.has_min else 128

    @property
    def type(self) -> TensorType:
        """The type that has the same formula."""
        return TensorType.Q4_1 if self.has_min else TensorType.Q8_0


def scheme_for(weight: Weight, bits: int, group: int) -> Scheme:
    """A matrix's scheme when `bits` and `group` are asked for: a group that does not divide its inputs gives
    way to the largest that does."""
    fits = max(size for size in GROUPS if size <= group and blocked(weight.shape[1]) % size == 0)
    return Scheme(8 if weight.name.split(".")[-2] in _SENSITIVE else bits, fits)


def allocate(parts: Sequence[Weight], scheme: Scheme) -> Any:
    """An empty matrix for neighbouring parts; its memory is taken as it is filled."""
    rows, store = stacked([part.shape[0] for part in parts]), STORES[scheme.bits]
    try:
        return _native.Packed(
            rows, blocked(parts[0].shape[1]), store, scheme.group, False, scheme.has_min, scheme.zero
        )
    except MemoryError as e:
        raise out_of_memory(f"the weights of {parts[0].name}") from e


def pack(tensors: Tensors, parts: Sequence[Weight], scheme: Scheme, machine: Machine) -> Any:
    """Neighbouring parts, rounded, in one matrix."""
    matrix = allocate(parts, scheme)

    def task(work: tuple[Weight, int, int, int]) -> None:
        part, first, start, stop = work
        codes = quantise(widened(tensors.rows(part.name, start, stop), matrix.k), scheme)
        scales = _halves(tensors, part, codes.scale)
        mins = None if codes.minimum is None else _halves(tensors, part, codes.minimum)
        matrix.fill_codes(machine.pool, codes.q, scales, mins, first + start)

    with ThreadPoolExecutor(machine.threads) as threads:
        for _ in threads.map(task, list(some_rows(parts))):
            pass  # raises what a task raised; what has not begun by then is cancelled
    for part in parts:
        tensors.release(part.name)
    return matrix


def quantise(values: Floats, scheme: Scheme) -> Codes:
    """A matrix [N, K] in codes; scales and minima are float32 values that float16 can hold, or infinite."""
    rows, columns = values.shape
    groups = values.reshape(-1, scheme.group)
    q = np.empty(groups.shape, np.uint8)
    scale, minimum = (np.empty(len(groups), np.float32) for _ in range(2))
    search = _search if scheme.has_min else _round
    step = _CHUNK // scheme.group
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(groups), step):
            part = slice(start, start + step)
            found = search(np.ascontiguousarray(groups[part].T))
            q[part], scale[part], minimum[part] = found[0].T, found[1], found[2]
    shape = (rows, columns // scheme.group)
    least = minimum.reshape(shape) if scheme.has_min else None
    return Codes(q.reshape(values.shape), scale.reshape(shape), least, scheme.zero, scheme.group, scheme.bits)


def _halves(tensors: Tensors, part: Weight, values: Floats) -> NDArray[np.uint16]:
    if not np.isfinite(values).all():
        problem = f"tensor {part.name} holds weights too large for float16 scales: leave --bits out"
        raise WeightsError(f"{tensors.where}: {problem}")
    return values.astype(np.float16).view(np.uint16)


# Below, G groups are the columns of [group, G]: sums over a group are sums of rows, which are fast.


def _round(x: Floats) -> tuple[Floats, Floats, float]:
    """Codes [group, G] around 128, scales [G] and no minimum."""
    exact = np.abs(x).max(axis=0) / np.float32(127)
    half = exact.astype(np.float16)
    # Never below, so that no weight is cut off.
    scale = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)
    return np.rint(x * _inverse(scale)) + np.float32(128), scale, 0.0


def _search(x: Floats) -> tuple[Floats, Floats, Floats]:
    """Codes [group, G], scales [G] and minima [G] of nearly the least squared error."""
    low = x.min(axis=0)
    above = x - low
    span = above.max(axis=0)
    in_steps = above * (_inverse(span) * np.float32(15))
    fit = _fit(above, np.rint(in_steps))
    for under, over in product(_CUTS, _CUTS):
        stretch = 1 / (1 - under - over)
        q = in_steps * np.float32(stretch)
        q -= np.float32(15 * under * stretch)
        better = _fit(above, np.clip(np.rint(q, out=q), 0, 15, out=q))
        _keep_better(fit, better, better.gain > fit.gain)
    best = _rounded(x, span / np.float32(15), low)
    for _ in range(1 + _FITS):
        other = _rounded(x, fit.scale, low + fit.minimum)
        _keep_better(best, other, other.error < best.error)
        fit = _fit(above, best.q)
    return best.q, best.scale, best.minimum


class _Fit(NamedTuple):
    """The scale and minimum [G] that fit codes best, and by how much the squared error is below that of one
    mean value."""

    gain: Floats
    scale: Floats
    minimum: Floats


class _Rounded(NamedTuple):
    """Squared errors [G], codes [group, G], and scales and minima [G] as float16 has them."""

    error: Floats
    q: Floats
    scale: Floats
    minimum: Floats


def _fit(x: Floats, q: Floats) -> _Fit:
    count = np.float32(len(x))
    mean_q, mean_x = q.sum(axis=0) / count, x.sum(axis=0) / count
    products = q * x
    covariance = products.sum(axis=0) - count * mean_q * mean_x
    np.multiply(q, q, out=products)
    variance = products.sum(axis=0) - count * mean_q * mean_q
    scale = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > 0)
    return _Fit(scale * covariance, scale, mean_x - scale * mean_q)


def _rounded(x: Floats, scale: Floats, minimum: Floats) -> _Rounded:
    scale, minimum = (values.astype(np.float16).astype(np.float32) for values in (scale, minimum))
    q = (x - minimum) * _inverse(scale)
    np.clip(np.rint(q, out=q), 0, 15, out=q)
    error = q * scale
    error += minimum
    error -= x
    error *= error
    return _Rounded(error.sum(axis=0), q, scale, minimum)


def _inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 for a group without range."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)


def _keep_better(best: _Fit | _Rounded, other: _Fit | _Rounded, better: NDArray[np.bool_]) -> None:
    """Write the better groups of `other` into `best`."""
    for kept, new in zip(best, other, strict=True):
        np.copyto(kept, new, where=better)
