"""Packing loses nothing: what the kernels read from a packed matrix is the checkpoint's weight, exactly."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sampan.kernels.cpu import _native, panels
from sampan.kernels.cpu.layout import Layout
from sampan.kernels.formats import Form, TensorType, dequantise
from sampan.kernels.ops import Linear, Weight

N, K = 45, 768  # not whole panels; three superblocks of 256


def rows_of(small: Callable[..., Any], isa: str, matrix: Any, ids: list[int]) -> np.ndarray:
    program = small(isa)
    program.result(program.embed(matrix), matrix.k)
    logits, _ = program.run(ids=ids)
    return logits


@pytest.mark.parametrize("type", TensorType, ids=lambda type: type.name)
def test_an_embedded_row_is_the_dequantised_weight_exactly(
    type: TensorType, isa: str, small: Callable[..., Any], packed_raw: Callable[..., Any],
    random_raw: Callable[..., np.ndarray],
) -> None:  # fmt: skip
    raw = random_raw(type, N, K)
    ids = [0, 44, 7, 16, 15, 31, 32, 7]
    rows = rows_of(small, isa, packed_raw(raw, type, N, K), ids)
    assert np.array_equal(rows, dequantise(raw, type, (N, K))[ids])


@pytest.mark.parametrize(
    "type", [TensorType.Q4_1, TensorType.Q6_K, TensorType.BF16], ids=lambda type: type.name
)
def test_parts_are_packed_one_after_another_and_in_the_order_asked_for(
    type: TensorType, small: Callable[..., Any], pool: Any, random_raw: Callable[..., np.ndarray]
) -> None:
    first, second = random_raw(type, 20, K, seed=1), random_raw(type, 13, K, seed=2)
    order = np.random.default_rng(3).permutation(20).astype(np.int32)
    matrix = _native.Packed.of(32 + 13, K, type.number)
    matrix.fill(pool, first, type.number, 0, 20, order)
    matrix.fill(pool, second, type.number, 32, 13)
    rows = rows_of(small, "", matrix, [*range(20), *range(32, 45)])
    assert np.array_equal(rows[:20], dequantise(first, type, (20, K))[order])
    assert np.array_equal(rows[20:], dequantise(second, type, (13, K)))


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("group", [16, 32, 64, 128])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("has_min", [False, True])
def test_what_codes_take_is_known_before_they_are_read(
    bits: int, group: int, wide: bool, has_min: bool
) -> None:
    form = Form(bits, group, 0 if has_min else 7, wide, has_min)
    tensors = SimpleNamespace(
        where="", packed={}, info=lambda _: SimpleNamespace(type=TensorType.Q4_1, form=form)
    )
    parts = tuple(Weight(name, (rows, K)) for name, rows in (("a.weight", 20), ("b.weight", N)))
    (segment,) = Layout(tensors).segments(Linear(parts))
    matrix = panels.allocate(tensors, parts)
    assert (segment.n, segment.k, segment.nbytes) == (matrix.n, matrix.k, matrix.data.nbytes)


@pytest.mark.parametrize(("store", "bits"), [(0, 4), (1, 6), (2, 8)])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("has_min", [False, True])
def test_plain_codes_are_packed_exactly(
    store: int, bits: int, group: int, has_min: bool, small: Callable[..., Any], pool: Any
) -> None:
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 2**bits, (N, 256), np.uint8)
    scales, mins = (rng.normal(0, 0.02, (N, 256 // group)).astype(np.float16) for _ in range(2))
    zero = 0 if has_min else 2 ** (bits - 1)
    matrix = _native.Packed(N, 256, store, group, False, has_min, zero)
    matrix.fill_codes(pool, codes, scales.view(np.uint16), mins.view(np.uint16) if has_min else None, 0)
    values = np.repeat(scales.astype(np.float32), group, axis=1) * (codes.astype(np.float32) - zero)
    if has_min:
        values += np.repeat(mins.astype(np.float32), group, axis=1)
    assert np.array_equal(rows_of(small, "", matrix, list(range(N))), values)


def test_packed_bytes_can_be_mapped_again_and_are_read_only_then(
    small: Callable[..., Any],
    pool: Any,
    packed_raw: Callable[..., Any],
    random_raw: Callable[..., np.ndarray],
) -> None:
    raw = random_raw(TensorType.Q4_K, N, K)
    matrix = packed_raw(raw, TensorType.Q4_K, N, K)
    saved = np.array(matrix.data)
    again = _native.Packed(N, K, matrix.store, matrix.group, matrix.wide, matrix.has_min, matrix.zero, saved)
    ids = list(range(N))
    assert np.array_equal(rows_of(small, "", again, ids), rows_of(small, "", matrix, ids))
    with pytest.raises(ValueError, match="read-only"):
        again.fill(pool, raw, TensorType.Q4_K.number, 0, N)
    assert not matrix.data.flags.writeable
