"""Matrices of FP8 (OCP 8-bit floats, E4M3) with a scale for each block of rows and inputs.

A value is the float32 product of both, rounded once. The kernels take codes and scales where inputs go by
fours. Otherwise, where every scale is a power of two, bf16 holds all values; the rest come out as float32.
"""

from dataclasses import dataclass
from math import gcd, prod

import numpy as np

from sampan.kernels.formats import E4M3, Codes, Form, TensorType, e4m3_form
from sampan.weights.files import Floats
from sampan.weights.quantised.module import Stored, Weight

_CHUNK = 2**20  # weights decoded at a time


_MOST = np.finfo(np.float32).max / 448


@dataclass(frozen=True, eq=False)
class Blocks:
    """See `weights.files.Decoder`. `scale`: [rows / block rows, inputs / block inputs] of each matrix of the
    tensor, one after another, rounded up: blocks at the edges may be smaller."""

    stored: Stored
    scale: Floats
    block: tuple[int, int]

    def weight(self) -> Weight:
        """As it comes out."""
        mantissa, exponent = np.frexp(self.scale)
        powers = (np.abs(mantissa) == 0.5) & (np.abs(exponent) < 100)
        type = TensorType.BF16 if (powers | (self.scale == 0)).all() else TensorType.F32
        return Weight(self.stored.shape, type, self.form_at(0), self, self.stored)

    def form_at(self, first: int) -> Form | None:
        """Of rows from here on."""
        *_, rows, inputs = self.stored.shape
        alike = gcd(self.block[0], first % rows)
        group = min(self.block[1], inputs)
        return None if inputs % 4 else e4m3_form(alike, group)

    def values(self, start: int, stop: int) -> Floats:
        """Rows [start, stop), over all matrices, as float32."""
        inputs = self.stored.shape[-1]
        codes = self.stored.bits().reshape(-1, inputs)
        out = np.empty((stop - start, inputs), np.float32)
        step = max(_CHUNK // inputs, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            for at in range(start, stop, step):
                end = min(at + step, stop)
                part = out[at - start : end - start]
                np.take(E4M3, codes[at:end], out=part, mode="clip")
                part *= self._scales(at, end)[:, np.arange(inputs) // self.block[1]]
        return out

    def codes(self, start: int, stop: int) -> Codes:
        """Rows [start, stop), over all matrices."""
        inputs = self.stored.shape[-1]
        q, scale = self.stored.bits().reshape(-1, inputs)[start:stop], self._scales(start, stop)
        if ((q & 0x7F) == 0x7F).any() or np.abs(scale).max(initial=0) > _MOST:
            raise self.stored.fail("holds values that are not finite numbers: the file is damaged")
        return Codes(q, scale, None, 0, min(self.block[1], inputs), 8)

    def _scales(self, start: int, stop: int) -> Floats:
        """Of rows [start, stop): [n, blocks of inputs]."""
        rows, number = self.stored.shape[-2], np.arange(start, stop)
        some: Floats = self.scale[number // rows * -(-rows // self.block[0]) + number % rows // self.block[0]]
        return some

    def release(self, start: int, stop: int) -> None:
        """Rows [start, stop)."""
        self.stored.release(start, stop - start)


def blocks(stored: Stored, scale: Stored, block: tuple[int, int]) -> Blocks:
    """A tensor with its scales, once they fit it."""
    *outer, rows, inputs = stored.shape
    expected = (*outer, -(-rows // block[0]), -(-inputs // block[1]))
    if prod(scale.shape) != prod(expected) or (len(scale.shape) > 1 and scale.shape != expected):
        raise scale.fail(
            f"has shape {list(scale.shape)}, blocks of {list(block)} of {list(stored.shape)} "
            f"ask for {list(expected)}"
        )
    values = scale.floats().reshape(-1, expected[-1])
    if not np.isfinite(values).all():
        raise scale.fail("holds scales that are not finite numbers: the file is damaged")
    return Blocks(stored, values, block)
