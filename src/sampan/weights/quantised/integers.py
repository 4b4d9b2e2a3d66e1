"""Matrices of integers with a scale, and perhaps a zero point, for each group of inputs.

w = scale * (q - zero). Codes of contiguous groups go to the kernels as they are. Where the zero points
differ, scale * q - scale * zero is the same number, exactly: float32 has room for a scale of at most 11 bits
times a code of 8.
Inputs that lie in groups in another order (GPTQ's act-order) have no such form, and come out as float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.kernels.formats import Codes, Form, TensorType
from sampan.weights.files import Floats
from sampan.weights.quantised.module import Stored, Weight

Bytes = NDArray[np.uint8]
Zero = Callable[[int, int], NDArray[np.uint8]]
_GROUPS = (128, 64, 32, 16)  # that the kernels know
_CHUNK = 2**20  # weights decoded at a time
_ROWS = 4096  # whose zero points are looked at together


@dataclass(frozen=True, eq=False)
class Integers:
    """See `weights.files.Decoder`. Of rows [start, stop) of the matrix [rows, inputs]: `q` gives codes
    [n, inputs], `scale` and `zero` [n, groups]; `zero` may be one number. `order`: the group of each input,
    where that is not input // group. `halves`: float16 holds every scale; `short`: scales have at most 11
    bits."""

    rows: int
    inputs: int
    bits: int
    group: int
    q: Callable[[int, int], Bytes]
    scale: Callable[[int, int], Floats]
    zero: Zero | int
    order: NDArray[np.intp] | None
    halves: bool
    short: bool
    stored: tuple[Stored, ...]

    def weight(self) -> Weight:
        """As it comes out."""
        form = self.form()
        type = TensorType.F32
        if form is not None:  # the type that has the same formula
            small = TensorType.Q4_1 if form.has_min else TensorType.Q4_0
            type = small if self.bits == 4 else TensorType.Q8_0
        return Weight((self.rows, self.inputs), type, form, self, self.stored[0])

    def form(self) -> Form | None:
        """Of the codes; None where only float32 holds the values."""
        size = next((s for s in _GROUPS if self.group % s == 0 and self.inputs % s == 0), None)
        if size is None or self.order is not None:
            return None
        if isinstance(self.zero, int):
            return Form(self.bits, size, self.zero, wide=not self.halves)
        return Form(self.bits, size, 0, wide=True, has_min=True) if self.short else None

    def form_at(self, _first: int) -> Form | None:
        """The same for all rows."""
        return self.form()

    def codes(self, start: int, stop: int) -> Codes:
        """Rows [start, stop) by the form."""
        form = self.form()
        assert form is not None
        places = np.arange(0, self.inputs, form.group) // self.group
        scale = self.scale(start, stop)
        minimum = None
        if not isinstance(self.zero, int):
            minimum = (scale * -self.zero(start, stop).astype(np.float32))[:, places]
        return Codes(self.q(start, stop), scale[:, places], minimum, form.zero, form.group, self.bits)

    def values(self, start: int, stop: int) -> Floats:
        """Rows [start, stop) as float32."""
        places = np.arange(self.inputs) // self.group if self.order is None else self.order
        out = np.empty((stop - start, self.inputs), np.float32)
        step = max(_CHUNK // self.inputs, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            for at in range(start, stop, step):
                end = min(at + step, stop)
                part = out[at - start : end - start]
                zero = self.zero if isinstance(self.zero, int) else self.zero(at, end)[:, places]
                np.subtract(self.q(at, end), zero, out=part, dtype=np.float32)
                part *= self.scale(at, end)[:, places]
        return out

    def release(self, _start: int, stop: int) -> None:
        """Once the last row is read: a row may lie anywhere in the tensors."""
        if stop == self.rows:
            for stored in self.stored:
                stored.release()


def fields(words: NDArray[Any], bits: int) -> Bytes:
    """The fields of 4 or 8 bits of int32 words [..., n], the lowest first: [..., n * 32 / bits]."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets
    out = np.empty((*octets.shape[:-1], 2 * octets.shape[-1]), np.uint8)
    out[..., 0::2], out[..., 1::2] = octets & 0x0F, octets >> 4
    return out


def constant(zero: Zero, rows: int, bits: int, stored: Stored) -> Zero | int:
    """One number, where the zero points of all rows are equal and codes lie on either side of them; `stored`
    holds them, and does not stay in memory for this."""
    one = int(zero(0, 1)[0, 0])
    same = all((zero(at, min(at + _ROWS, rows)) == one).all() for at in range(0, rows, _ROWS))
    stored.release()
    return one if same and 0 < one < 2**bits - 1 else zero


def short(scale: Stored) -> bool:
    """Whether scales have at most 11 bits."""
    return scale.entry.dtype in ("F16", "BF16")
