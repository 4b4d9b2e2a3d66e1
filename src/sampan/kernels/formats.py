"""The number formats of weights: their sizes, and what their bits mean.

`dequantise` gives any of them as float32. `codes` gives a quantised matrix in its lossless integer form,
the reference of the native packer. Both evaluate the formula of ggml's `dequantize_row_*` (ggml-quants.c)
one float32 rounding at a time, `fl(fl(scale * (q - zero)) + minimum)`, and so equal the `gguf` package bit
for bit; a C build that fuses the product and the sum differs from it by one rounding.
Nothing here judges the values: a scale that is not finite gives weights that are not finite.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Blocks = NDArray[np.void]

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
    BF16 = (30, 1, 2)

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
    """A quantised matrix [N, K] without loss: w = scale * (q - zero) + minimum, in float32.

    `q`: uint8 [N, K]. `scale` and `minimum`: float32 [N, K / group]; no `minimum` means none is added.
    `bits`: the smallest container of 4, 6 or 8 bits that holds every code.
    """

    q: Bytes
    scale: Floats
    minimum: Floats | None
    zero: int
    group: int
    bits: int


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

    @property
    def stored(self) -> int:
        """Bytes in the file, with the zeros at the end."""
        return -(-self.bytes // ALIGNMENT) * ALIGNMENT

    def text(self) -> str:
        """The JSON object."""
        return json.dumps(vars(self) | {"parts": dict(self.parts), "source": self.source.name})


@dataclass(frozen=True)
class _Format:
    """How one type is laid out; `decode` gives codes [B, block], scales and minima [B, block / group]."""

    layout: np.dtype[Any]
    decode: Callable[[Blocks], tuple[Bytes, Floats, Floats | None]]
    zero: int
    group: int
    bits: int


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


def codes(raw: Bytes, type: TensorType, shape: Sequence[int]) -> Codes:
    """The integer form of a quantised matrix; `shape` is (rows N, columns K), `raw` its bytes."""
    _check(raw, type, shape)
    assert type.quantised, f"{type.name} has no integer form"
    assert len(shape) == 2, f"{shape} is not a matrix"
    form = _FORMATS[type]
    blocks = raw.view(form.layout)
    rows, columns = shape
    q = np.empty((len(blocks), type.block), np.uint8)
    scale = np.empty((len(blocks), type.block // form.group), np.float32)
    minimum = np.empty_like(scale)
    has_minimum = False
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(blocks), _CHUNK):
            part = slice(start, start + _CHUNK)
            q[part], scale[part], low = form.decode(blocks[part])
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
    form = _FORMATS[type]
    blocks = raw.view(form.layout)
    out = np.empty((len(blocks), type.block // form.group, form.group), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(blocks), _CHUNK):
            q, scale, minimum = form.decode(blocks[start : start + _CHUNK])
            part = out[start : start + _CHUNK]
            np.subtract(q.reshape(part.shape), form.zero, out=part, dtype=np.float32)
            part *= scale[:, :, None]
            if minimum is not None:
                part += minimum[:, :, None]
    return out


def _single(blocks: Blocks, field: str) -> Floats:
    """A float16 field as a column, [B, 1]."""
    column: Floats = blocks[field].astype(np.float32)[:, None]
    return column


def _shifted(packed: Bytes, run: int, shifts: Sequence[int], mask: int) -> Bytes:
    """Fields of `packed` [B, n]: each run of `run` bytes is read once for every shift, in turn."""
    runs = packed.reshape(len(packed), -1, 1, run)
    fields: Bytes = (runs >> np.array(shifts, np.uint8)[:, None]) & np.uint8(mask)
    return fields.reshape(len(packed), -1)


def _fifth_bits(blocks: Blocks) -> Bytes:
    """The fifth bit of 32 codes, in place (bit 4); bit i of the little-endian word belongs to code i."""
    return np.unpackbits(blocks["high"], axis=1, bitorder="little") << np.uint8(4)


def _six_bit_pairs(packed: Bytes) -> tuple[Floats, Floats]:
    """The 8 scales and 8 minima of Q4_K and Q5_K, 6 bits each in 12 bytes, [B, 8] both."""
    low, high, mixed = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.hstack([low & 0x3F, (mixed & 0x0F) | ((low >> 2) & 0x30)])
    minima = np.hstack([high & 0x3F, (mixed >> 4) | ((high >> 2) & 0x30)])
    return scales.astype(np.float32), minima.astype(np.float32)


def _decode_q4(blocks: Blocks) -> Bytes:
    return _shifted(blocks["q"], 16, (0, 4), 0x0F)


def _decode_q4_0(blocks: Blocks) -> tuple[Bytes, Floats, None]:
    return _decode_q4(blocks), _single(blocks, "d"), None


def _decode_q4_1(blocks: Blocks) -> tuple[Bytes, Floats, Floats]:
    return _decode_q4(blocks), _single(blocks, "d"), _single(blocks, "m")


def _decode_q5_0(blocks: Blocks) -> tuple[Bytes, Floats, None]:
    return _decode_q4(blocks) | _fifth_bits(blocks), _single(blocks, "d"), None


def _decode_q5_1(blocks: Blocks) -> tuple[Bytes, Floats, Floats]:
    return _decode_q4(blocks) | _fifth_bits(blocks), _single(blocks, "d"), _single(blocks, "m")


def _decode_q8_0(blocks: Blocks) -> tuple[Bytes, Floats, None]:
    return blocks["q"] ^ np.uint8(0x80), _single(blocks, "d"), None  # int8 + 128


def _decode_q2_k(blocks: Blocks) -> tuple[Bytes, Floats, Floats]:
    scales = blocks["scales"]
    scale = _single(blocks, "d") * (scales & 0x0F).astype(np.float32)
    minimum = _single(blocks, "m") * (scales >> 4).astype(np.float32)
    return _shifted(blocks["q"], 32, (0, 2, 4, 6), 3), scale, -minimum


def _decode_q3_k(blocks: Blocks) -> tuple[Bytes, Floats, None]:
    packed = blocks["scales"]
    low = _shifted(packed[:, :8], 8, (0, 4), 0x0F)
    high = _shifted(packed[:, 8:], 4, (0, 2, 4, 6), 3)
    scale = _single(blocks, "d") * ((low | (high << 4)).astype(np.float32) - np.float32(32))
    third = _shifted(blocks["high"], 32, range(8), 1) << np.uint8(2)
    return _shifted(blocks["q"], 32, (0, 2, 4, 6), 3) | third, scale, None


def _decode_q4_k(blocks: Blocks) -> tuple[Bytes, Floats, Floats]:
    scales, minima = _six_bit_pairs(blocks["scales"])
    q = _shifted(blocks["q"], 32, (0, 4), 0x0F)
    return q, _single(blocks, "d") * scales, -(_single(blocks, "m") * minima)


def _decode_q5_k(blocks: Blocks) -> tuple[Bytes, Floats, Floats]:
    q, scale, minimum = _decode_q4_k(blocks)
    return q | (_shifted(blocks["high"], 32, range(8), 1) << np.uint8(4)), scale, minimum


def _decode_q6_k(blocks: Blocks) -> tuple[Bytes, Floats, None]:
    low = _shifted(blocks["q"], 64, (0, 4), 0x0F)
    high = _shifted(blocks["high"], 32, (0, 2, 4, 6), 3) << np.uint8(4)
    return low | high, _single(blocks, "d") * blocks["scales"].astype(np.float32), None


def _layout(**fields: tuple[str, int] | str) -> np.dtype[Any]:
    return np.dtype([(name, *([kind] if isinstance(kind, str) else kind)) for name, kind in fields.items()])


# The structs of ggml-common.h. `d`: scale, `m`: minimum, `high`: the bits that `q` has no room for.
_HALF = "<f2"
_FORMATS = {
    TensorType.Q4_0: _Format(_layout(d=_HALF, q=("u1", 16)), _decode_q4_0, 8, 32, 4),
    TensorType.Q4_1: _Format(_layout(d=_HALF, m=_HALF, q=("u1", 16)), _decode_q4_1, 0, 32, 4),
    TensorType.Q5_0: _Format(_layout(d=_HALF, high=("u1", 4), q=("u1", 16)), _decode_q5_0, 16, 32, 6),
    TensorType.Q5_1: _Format(_layout(d=_HALF, m=_HALF, high=("u1", 4), q=("u1", 16)), _decode_q5_1, 0, 32, 6),
    TensorType.Q8_0: _Format(_layout(d=_HALF, q=("u1", 32)), _decode_q8_0, 128, 32, 8),
    TensorType.Q2_K: _Format(
        _layout(scales=("u1", 16), q=("u1", 64), d=_HALF, m=_HALF), _decode_q2_k, 0, 16, 4
    ),
    TensorType.Q3_K: _Format(
        _layout(high=("u1", 32), q=("u1", 64), scales=("u1", 12), d=_HALF), _decode_q3_k, 4, 16, 4
    ),
    TensorType.Q4_K: _Format(
        _layout(d=_HALF, m=_HALF, scales=("u1", 12), q=("u1", 128)), _decode_q4_k, 0, 32, 4
    ),
    TensorType.Q5_K: _Format(
        _layout(d=_HALF, m=_HALF, scales=("u1", 12), high=("u1", 32), q=("u1", 128)), _decode_q5_k, 0, 32, 6
    ),
    TensorType.Q6_K: _Format(
        _layout(q=("u1", 128), high=("u1", 64), scales=("i1", 16), d=_HALF), _decode_q6_k, 32, 16, 6
    ),
}
