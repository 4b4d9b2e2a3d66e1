"""Every format against the `gguf` package, bit for bit, on random bytes."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from sampan.kernels import formats
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.formats import TensorType, codes, dequantise, form_of

QUANTISED = [type for type in TensorType if type.quantised]
# Byte offset of each float16 in a block: these must stay finite, every other byte may be anything.
HALVES = {
    TensorType.Q4_0: (0,),
    TensorType.Q4_1: (0, 2),
    TensorType.Q5_0: (0,),
    TensorType.Q5_1: (0, 2),
    TensorType.Q8_0: (0,),
    TensorType.Q2_K: (80, 82),
    TensorType.Q3_K: (108,),
    TensorType.Q4_K: (0, 2),
    TensorType.Q5_K: (0, 2),
    TensorType.Q6_K: (208,),
    **dict.fromkeys(
        (
            TensorType.IQ2_XXS, TensorType.IQ2_XS, TensorType.IQ2_S, TensorType.IQ3_XXS, TensorType.IQ3_S,
            TensorType.IQ1_S, TensorType.IQ4_NL, TensorType.IQ4_XS,
        ),
        (0,),
    ),
    TensorType.IQ1_M: (),
    TensorType.TQ1_0: (52,),
    TensorType.TQ2_0: (64,),
    TensorType.MXFP4: (),
}  # fmt: skip
ROWS, COLUMNS = 9, 1280  # 45 blocks of 256, 360 of 32: more than one row of blocks, and not a power of two


def random_bytes(type: TensorType, rows: int = ROWS, columns: int = COLUMNS, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * columns // type.block, type.block_bytes), np.uint8)
    for offset in HALVES.get(type, ()):
        scales = rng.normal(0, 0.02, len(blocks)).astype("<f2")
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    if type is TensorType.IQ1_M:  # its float16 lies in the high bits of four words: the sign and exponent
        blocks[:, 55] &= 0xBF
    if type is TensorType.MXFP4:
        blocks[:, 0] = rng.integers(100, 140, len(blocks))
    return blocks.reshape(-1)


def oracle(raw: np.ndarray, type: TensorType, rows: int = ROWS) -> np.ndarray:
    return quants.dequantize(raw.reshape(rows, -1), GGMLQuantizationType(type.number))


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype == np.float32 and np.array_equal(
        left.view(np.uint32), right.view(np.uint32)
    )


@pytest.mark.parametrize("type", TensorType, ids=lambda type: type.name)
def test_sizes_and_numbers_are_those_of_the_gguf_package(type: TensorType) -> None:
    theirs = GGMLQuantizationType[type.name]
    assert type.number == theirs.value
    assert (type.block, type.block_bytes) == gguf.GGML_QUANT_SIZES[theirs]
    assert type.nbytes((3, 2 * type.block)) == 6 * type.block_bytes


@pytest.mark.parametrize("type", QUANTISED, ids=lambda type: type.name)
def test_dequantised_weights_equal_the_gguf_package_bit_for_bit(type: TensorType) -> None:
    raw = random_bytes(type)
    assert same_bits(dequantise(raw, type, (ROWS, COLUMNS)), oracle(raw, type))


@pytest.mark.parametrize("type", QUANTISED, ids=lambda type: type.name)
def test_a_tensor_longer_than_one_chunk_is_decoded_to_its_end(type: TensorType) -> None:
    rows, columns = 2100, type.block
    raw = random_bytes(type, rows, columns)
    expected = oracle(raw, type, rows)
    assert same_bits(dequantise(raw, type, (rows, columns)), expected)
    assert same_bits(rebuilt(raw, type, rows, columns), expected)


def rebuilt(raw: np.ndarray, type: TensorType, rows: int, columns: int) -> np.ndarray:
    form = codes(raw, type, (rows, columns))
    q = form.q.astype(np.float32).reshape(rows, -1, form.group) - np.float32(form.zero)
    values = form.scale[:, :, None] * q
    if form.minimum is not None:
        values = values + form.minimum[:, :, None]
    return values.reshape(rows, columns)


@pytest.mark.parametrize("type", QUANTISED, ids=lambda type: type.name)
def test_codes_rebuild_the_weights_exactly_and_fit_their_container(type: TensorType) -> None:
    raw = random_bytes(type)
    form = codes(raw, type, (ROWS, COLUMNS))
    assert form.q.shape == (ROWS, COLUMNS)
    assert form.scale.shape == (ROWS, COLUMNS // form.group)
    assert form.bits in (4, 6, 8)
    assert int(form.q.max()) < 2**form.bits
    assert same_bits(rebuilt(raw, type, ROWS, COLUMNS), oracle(raw, type))


@pytest.mark.parametrize(
    ("type", "zero", "group", "bits", "with_minimum"),
    [
        (TensorType.Q4_0, 8, 32, 4, False),
        (TensorType.Q4_1, 0, 32, 4, True),
        (TensorType.Q5_0, 16, 32, 6, False),
        (TensorType.Q5_1, 0, 32, 6, True),
        (TensorType.Q8_0, 128, 32, 8, False),
        (TensorType.Q2_K, 0, 16, 4, True),
        (TensorType.Q3_K, 4, 16, 4, False),
        (TensorType.Q4_K, 0, 32, 4, True),
        (TensorType.Q5_K, 0, 32, 6, True),
        (TensorType.Q6_K, 32, 16, 6, False),
        (TensorType.IQ4_NL, 128, 32, 8, False),
        (TensorType.IQ2_XS, 128, 16, 8, False),
        (TensorType.TQ2_0, 1, 128, 4, False),
        (TensorType.MXFP4, 12, 32, 6, False),
        (TensorType.IQ3_XXS, 31, 32, 6, False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_form_of_each_type_is_the_one_the_packer_expects(
    type: TensorType, zero: int, group: int, bits: int, with_minimum: bool
) -> None:
    form = codes(random_bytes(type), type, (ROWS, COLUMNS))
    assert (form.zero, form.group, form.bits) == (zero, group, bits)
    assert (form.minimum is not None) == with_minimum


@pytest.mark.parametrize("type", QUANTISED, ids=lambda type: type.name)
def test_what_is_said_of_codes_before_they_are_read_is_so(type: TensorType) -> None:
    form = form_of(type)
    if form is None:  # the kernels read its bytes themselves
        _native.panel_of(256, type.number)
        return
    found = codes(random_bytes(type), type, (ROWS, COLUMNS))
    assert (form.bits, form.group, form.zero) == (found.bits, found.group, found.zero)
    assert form.has_min == (found.minimum is not None)
    halves = found.scale.astype(np.float16).astype(np.float32)
    assert form.wide or np.array_equal(halves, found.scale)


def test_the_smallest_mxfp4_scales_are_denormal_and_the_largest_are_finite() -> None:
    raw = np.zeros((256, 17), np.uint8)
    raw[:, 0], raw[:, 1:] = np.arange(256), 0x91  # -0.5 and 0.5
    values = dequantise(raw.reshape(-1), TensorType.MXFP4, (256, 32))
    assert same_bits(values[:, 0], np.ldexp(np.float32(0.5), np.arange(256) - 127).astype(np.float32))
    assert same_bits(values[:, 16], -values[:, 0])


def test_the_codebooks_are_those_of_the_gguf_package() -> None:
    with np.load(Path(formats.__file__).with_name("codebooks.npz")) as kept:
        for name, grid in kept.items():
            theirs = getattr(quants, name)
            theirs.init_grid()
            assert np.array_equal(grid, theirs.grid.reshape(theirs.grid_shape))


def test_float_formats_keep_their_values() -> None:
    values = np.random.default_rng(3).normal(size=(5, 7)).astype(np.float32)
    as_bytes = values.view(np.uint8).reshape(-1)
    assert same_bits(dequantise(as_bytes, TensorType.F32, (5, 7)), values)
    halves = values.astype("<f2")
    f16 = dequantise(halves.view(np.uint8).reshape(-1), TensorType.F16, (5, 7))
    assert same_bits(f16, halves.astype(np.float32))
    upper = as_bytes.reshape(-1, 4)[:, 2:].copy().reshape(-1)
    bf16 = dequantise(upper, TensorType.BF16, (5, 7))
    assert same_bits(bf16, (values.view(np.uint32) & 0xFFFF0000).view(np.float32))


def test_a_result_is_a_copy_that_outlives_its_bytes() -> None:
    raw = np.zeros(16, np.uint8)
    values = dequantise(raw, TensorType.F32, (4,))
    raw[:] = 255
    assert values.flags.writeable
    assert not values.any()


@pytest.mark.parametrize("type", QUANTISED, ids=lambda type: type.name)
def test_infinite_scales_give_no_warning(type: TensorType) -> None:
    raw = np.full(type.block_bytes, 0x7C, np.uint8)  # 0x7C7C is a float16 NaN
    for halves in HALVES[type]:
        raw[halves : halves + 2] = (0x00, 0x7C)  # infinity
    dequantise(raw, type, (type.block,))
    codes(raw, type, (1, type.block))
