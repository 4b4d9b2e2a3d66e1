"""How blocks of GGUF's affine types are laid out, and how each is decoded to codes, scales and minima.

The structs and formulas are those of ggml-common.h and ggml-quants.c. `kernels/formats.py` says what codes
are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Blocks = NDArray[np.void]


@dataclass(frozen=True)
class Format:
    """How one type is laid out; `decode` gives codes [B, block], scales and minima [B, block / group]."""

    layout: np.dtype[Any]
    decode: Callable[[Blocks], tuple[Bytes, Floats, Floats | None]]
    zero: int
    group: int
    bits: int
    wide: bool = False


def single(blocks: Blocks, field: str) -> Floats:
    """A float16 field as a column, [B, 1]."""
    column: Floats = blocks[field].astype(np.float32)[:, None]
    return column


def shifted(packed: Bytes, run: int, shifts: Sequence[int], mask: int) -> Bytes:
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
    return shifted(blocks["q"], 16, (0, 4), 0x0F)


def _decode_q4_0(blocks: Blocks) -> tuple[Bytes, Floats, None]:
    return _decode_q4(blocks), single(blocks, "d"), None


def _decode_q4_1(blocks: Blocks) -> tuple[Bytes, Floats, Floats]:
    return _decode_q4(blocks), single(blocks, "d"), single(blocks, "m")


def _decode_q5_0(blocks: Blocks) -> tuple[Bytes, Floats, None]:
    return _decode_q4(blocks) | _fifth_bits(blocks), single(blocks, "d"), None


def _decode_q5_1(blocks: Blocks) -> tuple[Bytes, Floats, Floats]:
    return _decode_q4(blocks) | _fifth_bits(blocks), single(blocks, "d"), single(blocks, "m")


def _decode_q8_0(blocks: Blocks) -> tuple[Bytes, Floats, None]:
    return blocks["q"] ^ np.uint8(0x80), single(blocks, "d"), None  # int8 + 128


def _decode_q2_k(blocks: Blocks) -> tuple[Bytes, Floats, Floats]:
    scales = blocks["scales"]
    scale = single(blocks, "d") * (scales & 0x0F).astype(np.float32)
    minimum = single(blocks, "m") * (scales >> 4).astype(np.float32)
    return shifted(blocks["q"], 32, (0, 2, 4, 6), 3), scale, -minimum


def _decode_q3_k(blocks: Blocks) -> tuple[Bytes, Floats, None]:
    packed = blocks["scales"]
    low = shifted(packed[:, :8], 8, (0, 4), 0x0F)
    high = shifted(packed[:, 8:], 4, (0, 2, 4, 6), 3)
    scale = single(blocks, "d") * ((low | (high << 4)).astype(np.float32) - np.float32(32))
    third = shifted(blocks["high"], 32, range(8), 1) << np.uint8(2)
    return shifted(blocks["q"], 32, (0, 2, 4, 6), 3) | third, scale, None


def _decode_q4_k(blocks: Blocks) -> tuple[Bytes, Floats, Floats]:
    scales, minima = _six_bit_pairs(blocks["scales"])
    q = shifted(blocks["q"], 32, (0, 4), 0x0F)
    return q, single(blocks, "d") * scales, -(single(blocks, "m") * minima)


def _decode_q5_k(blocks: Blocks) -> tuple[Bytes, Floats, Floats]:
    q, scale, minimum = _decode_q4_k(blocks)
    return q | (shifted(blocks["high"], 32, range(8), 1) << np.uint8(4)), scale, minimum


def _decode_q6_k(blocks: Blocks) -> tuple[Bytes, Floats, None]:
    low = shifted(blocks["q"], 64, (0, 4), 0x0F)
    high = shifted(blocks["high"], 32, (0, 2, 4, 6), 3) << np.uint8(4)
    return low | high, single(blocks, "d") * blocks["scales"].astype(np.float32), None


def layout(**fields: tuple[str, int] | str) -> np.dtype[Any]:
    return np.dtype([(name, *([kind] if isinstance(kind, str) else kind)) for name, kind in fields.items()])


# The structs of ggml-common.h. `d`: scale, `m`: minimum, `high`: the bits that `q` has no room for.
HALF = "<f2"
FORMATS: dict[str, Format] = {
    "Q4_0": Format(layout(d=HALF, q=("u1", 16)), _decode_q4_0, 8, 32, 4),
    "Q4_1": Format(layout(d=HALF, m=HALF, q=("u1", 16)), _decode_q4_1, 0, 32, 4),
    "Q5_0": Format(layout(d=HALF, high=("u1", 4), q=("u1", 16)), _decode_q5_0, 16, 32, 6),
    "Q5_1": Format(layout(d=HALF, m=HALF, high=("u1", 4), q=("u1", 16)), _decode_q5_1, 0, 32, 6),
    "Q8_0": Format(layout(d=HALF, q=("u1", 32)), _decode_q8_0, 128, 32, 8),
    "Q2_K": Format(layout(scales=("u1", 16), q=("u1", 64), d=HALF, m=HALF), _decode_q2_k, 0, 16, 4),
    "Q3_K": Format(layout(high=("u1", 32), q=("u1", 64), scales=("u1", 12), d=HALF), _decode_q3_k, 4, 16, 4),
    "Q4_K": Format(layout(d=HALF, m=HALF, scales=("u1", 12), q=("u1", 128)), _decode_q4_k, 0, 32, 4),
    "Q5_K": Format(
        layout(d=HALF, m=HALF, scales=("u1", 12), high=("u1", 32), q=("u1", 128)), _decode_q5_k, 0, 32, 6
    ),
    "Q6_K": Format(
        layout(q=("u1", 128), high=("u1", 64), scales=("i1", 16), d=HALF), _decode_q6_k, 32, 16, 6
    ),
}
