"""The number formats of weights: their sizes, and what their bits mean.

`dequantise` gives any of them as float32. `codes` gives a quantised matrix in its lossless integer form: the
reference of the native packer, and what it takes of the types that `form_of` knows. Both evaluate the formula
of ggml's `dequantize_row_*` (ggml-quants.c) one float32 rounding at a time, `fl(fl(scale * (q - zero)) +
minimum)`, and so equal the `gguf` package bit for bit; a C build that fuses the product and the sum differs
from it by one rounding.
Nothing here judges the values: a scale that is not finite gives weights that are not finite.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

import numpy as np

from sampan.kernels import blocks, codebooks
from sampan.kernels.blocks import Bytes, Floats

_FORMATS = blocks.FORMATS | codebooks.FORMATS

# Blocks decoded at a time: the temporaries stay in the second-level cache.
_CHUNK = 2048


class TensorType(Enum):
    """A format: `number` in GGUF, `block` elements stored together in `block_bytes` bytes."""

    number: int
    block: int
    block_bytes: int

    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    Q4_0 = (2, 32, 18)
    Q4_1 = (3, 32, 20)
    Q5_0 = (6, 32, 22)
    Q5_1 = (7, 32, 24)
    Q8_0 = (8, 32, 34)
    Q2_K = (10, 256, 84)
    Q3_K = (11, 256, 110)
    Q4_K = (12, 256, 144)
    Q5_K = (13, 256, 176)
    Q6_K = (14, 256, 210)
    IQ2_XXS = (16, 256, 66)
    IQ2_XS = (17, 256, 74)
    IQ3_XXS = (18, 256, 98)
    IQ1_S = (19, 256, 50)
    IQ4_NL = (20, 32, 18)
    IQ3_S = (21, 256, 110)
    IQ2_S = (22, 256, 82)
    IQ4_XS = (23, 256, 136)
    IQ1_M = (29, 256, 56)
    BF16 = (30, 1, 2)
    TQ1_0 = (34, 256, 54)
    TQ2_0 = (35, 256, 66)
    MXFP4 = (39, 32, 17)

    def __init__(self, number: int, block: int, block_bytes: int) -> None:
        self.number = number
        self.block = block
        self.block_bytes = block_bytes

    @property
    def quantised(self) -> bool:
        """True where elements are integers that share scales."""
        return self.block > 1

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of `shape`, whose last dimension is a multiple of `block`."""
        return prod(shape) // self.block * self.block_bytes


@dataclass(frozen=True, eq=False)
class Codes:
    """A quantised matrix [N, K] without loss: w = scale * (q - zero) + minimum, in float32; of E4M3, scale
    times the value of the code.

    `q`: uint8 [N, K]. `scale` and `minimum`: float32 [N, K / group]; no `minimum` means none is added.
    `bits`: the smallest container of 4, 6 or 8 bits that holds every code.
    """

    q: Bytes
    scale: Floats
    minimum: Floats | None
    zero: int
    group: int
    bits: int


@dataclass(frozen=True)
class Form:
    """How the codes of a matrix lie, as `Codes` names it. `wide`: scales and minima are kept as float32,
    where float16 does not hold them all. `rows`: 0, or the codes are E4M3 with a float32 scale for so many
    rows, from the first on, and each `group` inputs, the last of which may be fewer."""

    bits: int
    group: int
    zero: int
    wide: bool = False
    has_min: bool = False
    rows: int = 0

    @property
    def across(self) -> "Form | None":
        """Of the transposed matrix, where that has one."""
        return e4m3_form(self.group, self.rows) if self.rows else None


def _e4m3() -> Floats:
    """The values of the 256 codes: no infinities, and NaN where all of exponent and mantissa is set."""
    code = np.arange(128)
    exponent, mantissa = code >> 3, (code & 7) / 8
    values = np.where(exponent, np.ldexp(1 + mantissa, exponent - 7), np.ldexp(mantissa, -6))
    values[127] = np.nan
    return np.concatenate([values, -values]).astype(np.float32)


E4M3 = _e4m3()


def e4m3_form(rows: int, group: int) -> Form | None:
    """Of E4M3 with a scale for blocks of rows and inputs; the kernels take four inputs at a time."""
    return None if group % 4 else Form(8, group, 0, wide=rows % PANEL != 0, rows=rows)


PANEL = 16
"""Rows of a matrix that lie together in the kernels."""
ALIGNMENT = 64
"""Bytes that a packed matrix is padded to in its file."""


@dataclass(frozen=True)
class PackedMatrix:
    """What the `__metadata__` says of one matrix [n, k]; weights/packed.py describes the
    fields."""

    parts: Mapping[str, int]
    n: int
    k: int
    store: int
    group: int
    wide: bool
    has_min: bool
    zero: int
    bytes: int
    source: TensorType
    inputs: int

    @property
    def stored(self) -> int:
        """Bytes in the file, with the zeros at the end."""
        return -(-self.bytes // ALIGNMENT) * ALIGNMENT

    def text(self) -> str:
        """The JSON object."""
        given = vars(self) | {"parts": dict(self.parts), "source": self.source.name}
        if self.inputs == self.k:
            del given["inputs"]
        return json.dumps(given)


def form_of(type: TensorType) -> Form | None:
    """How a type's codes lie; None where the kernels read its bytes themselves."""
    if type.name not in codebooks.FORMATS:
        return None
    form = codebooks.FORMATS[type.name]
    return Form(form.bits, form.group, form.zero, form.wide)


def dequantise(raw: Bytes, type: TensorType, shape: Sequence[int]) -> Floats:
    """The tensor as a new float32 array of `shape`; `raw` is its bytes, one-dimensional."""
    _check(raw, type, shape)
    if type is TensorType.F32:
        return raw.view("<f4").astype(np.float32).reshape(shape)
    if type is TensorType.F16:
        return raw.view("<f2").astype(np.float32).reshape(shape)
    if type is TensorType.BF16:
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return _dequantise_blocks(raw, type).reshape(shape)


def encode(values: Floats, type: TensorType) -> Bytes:
    """The bytes of values that a type of floats holds: what `dequantise` takes."""
    if type is TensorType.F16:
        return np.ascontiguousarray(values).reshape(-1).astype("<f2").view(np.uint8)
    bits = np.ascontiguousarray(values).reshape(-1).view(np.uint32)
    if type is TensorType.F32:
        return bits.view(np.uint8)
    assert type is TensorType.BF16, f"nothing is written as {type.name}"
    return (bits >> 16).astype(np.uint16).view(np.uint8)


def rounded(values: Floats, type: TensorType) -> Bytes:
    """The bytes of values in a type of floats, each the nearest that it holds, of two the even one."""
    if type is TensorType.BF16:
        bits = values.view(np.uint32)
        near = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return np.ascontiguousarray(near).reshape(-1).view(np.uint8)
    return encode(values, type)


def codes(raw: Bytes, type: TensorType, shape: Sequence[int]) -> Codes:
    """The integer form of a quantised matrix; `shape` is (rows N, columns K), `raw` its bytes."""
    _check(raw, type, shape)
    assert type.quantised, f"{type.name} has no integer form"
    assert len(shape) == 2, f"{shape} is not a matrix"
    form = _FORMATS[type.name]
    stored = raw.view(form.layout)
    rows, columns = shape
    q = np.empty((len(stored), type.block), np.uint8)
    scale = np.empty((len(stored), type.block // form.group), np.float32)
    minimum = np.empty_like(scale)
    has_minimum = False
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(stored), _CHUNK):
            part = slice(start, start + _CHUNK)
            q[part], scale[part], low = form.decode(stored[part])
            if low is not None:
                minimum[part], has_minimum = low, True
    grouped = (rows, columns // form.group)
    return Codes(
        q=q.reshape(rows, columns),
        scale=scale.reshape(grouped),
        minimum=minimum.reshape(grouped) if has_minimum else None,
        zero=form.zero,
        group=form.group,
        bits=form.bits,
    )


def _check(raw: Bytes, type: TensorType, shape: Sequence[int]) -> None:
    assert raw.dtype == np.uint8, f"the raw tensor is bytes, not {raw.dtype}"
    assert raw.ndim == 1, "the raw tensor is one row of bytes"
    assert shape[-1] % type.block == 0 if shape else not type.quantised, "rows hold whole blocks"
    assert raw.size == type.nbytes(shape), f"{raw.size} bytes are not a {type.name} of shape {shape}"


def _dequantise_blocks(raw: Bytes, type: TensorType) -> Floats:
    form = _FORMATS[type.name]
    stored = raw.view(form.layout)
    out = np.empty((len(stored), type.block // form.group, form.group), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(stored), _CHUNK):
            q, scale, minimum = form.decode(stored[start : start + _CHUNK])
            part = out[start : start + _CHUNK]
            np.subtract(q.reshape(part.shape), form.zero, out=part, dtype=np.float32)
            part *= scale[:, :, None]
            if minimum is not None:
                part += minimum[:, :, None]
    return out
