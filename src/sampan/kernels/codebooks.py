"""GGUF's types whose codes stand in codebooks: IQ1 to IQ4, MXFP4, and the ternary TQ1 and TQ2.

A codebook gives several values at once, or levels that lie unevenly; all are small integers times a scale
for a run of inputs. So each type is exactly codes of 4, 6 or 8 bits around a zero point, as
`kernels/formats.py` has them; the fewest bits that hold the values are taken. Structs and formulas:
ggml-common.h and ggml-quants.c. The codebooks themselves are facts of the format, in `codebooks.npz`
(`tests/kernels/codebooks.py` writes it).
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sampan.kernels.blocks import HALF, Blocks, Bytes, Floats, Format, layout, shifted, single

_GRIDS = Path(__file__).with_name("codebooks.npz")
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice the value of a code
_LEVELS = {
    "IQ4": (np.array(_IQ4) + 128).astype(np.uint8),
    "MXFP4": (np.array(_E2M1) + 12).astype(np.uint8),
}
_THREES = np.array([1, 3, 9, 27, 81], np.uint8)

Decoded = tuple[Bytes, Floats, None]
Wide = NDArray[np.uint16] | NDArray[np.uint32]


@cache
def _grid(name: str) -> NDArray[np.int8]:
    """[entries, values of one entry]."""
    with np.load(_GRIDS) as grids:
        grid: NDArray[np.int8] = grids[name]
    # Of IQ3_XXS every value is even: in halves six bits are enough.
    return grid >> np.int8(1) if name == "IQ3_XXS" else grid


@cache
def _signs() -> Bytes:
    """The eight signs that seven bits stand for: the last one makes the number of minus signs even."""
    seven = np.arange(128, dtype=np.uint8)
    parity = np.unpackbits(seven[:, None], axis=1).sum(axis=1, dtype=np.uint8) & 1
    eight: Bytes = seven | parity << np.uint8(7)
    return eight


def _fields(words: Wide, shifts: tuple[int, ...], mask: int) -> NDArray[np.uint16]:
    """Fields of each word [B, n], one after another: [B, n * shifts]."""
    found = (words[:, :, None] >> np.array(shifts, words.dtype)) & words.dtype.type(mask)
    fields: NDArray[np.uint16] = found.reshape(len(words), -1).astype(np.uint16)
    return fields


def _signed(name: str, entries: NDArray[np.integer], signs: Bytes, zero: int = 128) -> Bytes:
    """Codes around `zero` [B, 256] of codebook entries [B, n]; of `signs` [B, 32] each bit is one value's."""
    values = _grid(name)[entries].reshape(len(entries), -1).view(np.uint8)
    minus = np.unpackbits(signs, axis=1, bitorder="little")
    codes: Bytes = (values ^ -minus) + minus + np.uint8(zero)  # two's complement, modulo 256
    return codes


def _halves_of_bytes(packed: Bytes) -> Floats:
    """Four-bit fields, the low ones first, as floats."""
    return _fields(packed.astype(np.uint16), (0, 4), 0x0F).astype(np.float32)


def _decode_iq2_xxs(blocks: Blocks) -> Decoded:
    words = blocks["q"].reshape(len(blocks), 8, 2)
    entries = np.ascontiguousarray(words[:, :, 0]).view(np.uint8)
    signs = _signs()[_fields(words[:, :, 1], (0, 7, 14, 21), 0x7F)]
    step = (words[:, :, 1] >> 28).astype(np.float32) + np.float32(0.5)
    return _signed("IQ2_XXS", entries, signs), single(blocks, "d") * step * np.float32(0.25), None


def _decode_iq2_xs(blocks: Blocks) -> Decoded:
    signs = _signs()[blocks["q"] >> 9]
    step = _halves_of_bytes(blocks["scales"]) + np.float32(0.5)
    q = _signed("IQ2_XS", blocks["q"] & np.uint16(511), signs)
    return q, single(blocks, "d") * step * np.float32(0.25), None


def _decode_iq2_s(blocks: Blocks) -> Decoded:
    high = _fields(blocks["high"].astype(np.uint16), (0, 2, 4, 6), 3) << np.uint16(8)
    step = _halves_of_bytes(blocks["scales"]) + np.float32(0.5)
    q = _signed("IQ2_S", blocks["q"] | high, blocks["signs"])
    return q, single(blocks, "d") * step * np.float32(0.25), None


def _decode_iq3_xxs(blocks: Blocks) -> Decoded:
    words = blocks["scales"]
    signs = _signs()[_fields(words, (0, 7, 14, 21), 0x7F)]
    step = (words >> 28).astype(np.float32) + np.float32(0.5)
    return _signed("IQ3_XXS", blocks["q"], signs, 31), single(blocks, "d") * step, None


def _decode_iq3_s(blocks: Blocks) -> Decoded:
    high = np.unpackbits(blocks["high"], axis=1, bitorder="little").astype(np.uint16) << np.uint16(8)
    step = _halves_of_bytes(blocks["scales"]) * np.float32(2) + np.float32(1)
    return _signed("IQ3_S", blocks["q"] | high, blocks["signs"], 15), single(blocks, "d") * step, None


def _shifted_ternary(entries: NDArray[np.uint16], minus: NDArray[np.bool_]) -> Bytes:
    """Codes around 9, in eighths, of entries [B, 32]: each value of -1, 0 or 1 an eighth up or down."""
    eighths = _grid("IQ1_S")[entries] * np.int8(8) + np.where(minus, np.int8(-1), np.int8(1))[:, :, None]
    codes: Bytes = eighths.view(np.uint8) + np.uint8(9)
    return codes.reshape(len(entries), -1)


def _decode_iq1_s(blocks: Blocks) -> Decoded:
    words = blocks["high"]
    entries = blocks["q"] | _fields(words, (0, 3, 6, 9), 7) << np.uint16(8)
    step = ((words >> 12) & 7).astype(np.float32) * np.float32(2) + np.float32(1)
    minus = np.repeat(words >= 0x8000, 4, axis=1)
    return _shifted_ternary(entries, minus), single(blocks, "d") * step * np.float32(0.125), None


def _decode_iq1_m(blocks: Blocks) -> Decoded:
    words, fours = blocks["scales"], _fields(blocks["high"].astype(np.uint16), (0, 4), 0x0F)
    # The four high bits of each word are a float16 together.
    bits = sum((words[:, i] >> 12) << np.uint16(4 * i) for i in range(4)).astype(np.uint16)  # type: ignore[union-attr]
    step = _fields(words, (0, 3, 6, 9), 7).astype(np.float32) * np.float32(2) + np.float32(1)
    entries = blocks["q"] | (fours & np.uint16(7)) << np.uint16(8)
    scale = bits.view(np.float16).astype(np.float32)[:, None] * step * np.float32(0.125)
    return _shifted_ternary(entries, fours >= 8), scale, None


def _decode_iq4_nl(blocks: Blocks) -> Decoded:
    return _LEVELS["IQ4"][shifted(blocks["q"], 16, (0, 4), 0x0F)], single(blocks, "d"), None


def _decode_iq4_xs(blocks: Blocks) -> Decoded:
    high = _fields(blocks["high"][:, None], tuple(range(0, 16, 2)), 3)
    low = _fields(blocks["scales"].astype(np.uint16), (0, 4), 0x0F)
    step = (low | high << np.uint16(4)).astype(np.float32) - np.float32(32)
    return _LEVELS["IQ4"][shifted(blocks["q"], 16, (0, 4), 0x0F)], single(blocks, "d") * step, None


def half_power(exponents: Bytes) -> Floats:
    """Half of 2^(e - 127), as MXFP4's doubled levels need it; the two smallest are denormal."""
    e = exponents.astype(np.uint32)
    return np.where(e < 2, np.uint32(0x00200000) << e, (e - 1) << 23).astype(np.uint32).view(np.float32)


def _decode_mxfp4(blocks: Blocks) -> Decoded:
    return _LEVELS["MXFP4"][shifted(blocks["q"], 16, (0, 4), 0x0F)], half_power(blocks["e"])[:, None], None


def _decode_tq1_0(blocks: Blocks) -> Decoded:
    """Five digits in base 3 a byte, of fixed point: each is the carry of a product by 3."""
    runs = [(blocks["q"][:, :32], 5), (blocks["q"][:, 32:], 5), (blocks["high"], 4)]
    digits = [(run[:, None, :] * _THREES[:count, None]).reshape(len(run), -1) for run, count in runs]
    q = (np.hstack(digits).astype(np.uint16) * np.uint16(3) >> np.uint16(8)).astype(np.uint8)
    return q, np.repeat(single(blocks, "d"), 2, axis=1), None


def _decode_tq2_0(blocks: Blocks) -> Decoded:
    return shifted(blocks["q"], 32, (0, 2, 4, 6), 3), np.repeat(single(blocks, "d"), 2, axis=1), None


# `high`: the bits of entries or scales that `q` or `scales` has no room for.
FORMATS: dict[str, Format] = {
    "IQ2_XXS": Format(layout(d=HALF, q=("<u4", 16)), _decode_iq2_xxs, 128, 32, 8, wide=True),
    "IQ2_XS": Format(
        layout(d=HALF, q=("<u2", 32), scales=("u1", 8)), _decode_iq2_xs, 128, 16, 8, wide=True
    ),
    "IQ3_XXS": Format(
        layout(d=HALF, q=("u1", 64), scales=("<u4", 8)), _decode_iq3_xxs, 31, 32, 6, wide=True
    ),
    "IQ1_S": Format(layout(d=HALF, q=("u1", 32), high=("<u2", 8)), _decode_iq1_s, 9, 32, 6, wide=True),
    "IQ4_NL": Format(layout(d=HALF, q=("u1", 16)), _decode_iq4_nl, 128, 32, 8),
    "IQ3_S": Format(
        layout(d=HALF, q=("u1", 64), high=("u1", 8), signs=("u1", 32), scales=("u1", 4)),
        _decode_iq3_s, 15, 32, 6, wide=True,
    ),
    "IQ2_S": Format(
        layout(d=HALF, q=("u1", 32), signs=("u1", 32), high=("u1", 8), scales=("u1", 8)),
        _decode_iq2_s, 128, 16, 8, wide=True,
    ),
    "IQ4_XS": Format(
        layout(d=HALF, high="<u2", scales=("u1", 4), q=("u1", 128)), _decode_iq4_xs, 128, 32, 8, wide=True
    ),
    "IQ1_M": Format(
        layout(q=("u1", 32), high=("u1", 16), scales=("<u2", 4)), _decode_iq1_m, 9, 16, 6, wide=True
    ),
    "TQ1_0": Format(layout(q=("u1", 48), high=("u1", 4), d=HALF), _decode_tq1_0, 1, 128, 4),
    "TQ2_0": Format(layout(q=("u1", 64), d=HALF), _decode_tq2_0, 1, 128, 4),
    "MXFP4": Format(layout(e="u1", q=("u1", 16)), _decode_mxfp4, 12, 32, 6, wide=True),
}  # fmt: skip
