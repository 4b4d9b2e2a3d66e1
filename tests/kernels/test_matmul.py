"""Linear layers from packed weights, against float64 products of the dequantised weights and activations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sampan.kernels.formats import TensorType, codes, dequantise

N, K, ROWS = 53, 512, 24
FIRST = 52  # position of the first row: 16-bit rows end at position 64
QUANTISED = [type for type in TensorType if type.quantised]
FLOATS = [type for type in TensorType if not type.quantised]
BF16 = 4  # of kernels.h
EPSILON = 2.0**-24  # half a unit in the last place of float32


def inputs(rows: int = ROWS) -> np.ndarray:
    """Rows with outliers, zeros and very different sizes."""
    rng = np.random.default_rng(11)
    x = rng.normal(0, 1, (rows, K)) * 10.0 ** rng.integers(-3, 3, (rows, 1))
    x[:, 17] *= 50
    x[3, :64] = 0
    return x.astype(np.float32)


def quantised(x: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Activations as the kernels hold them, in float64: scale * q in blocks of 32, q of 8 or 16 bits."""
    limit = np.where(fine, np.float32(32512), np.float32(127))[:, None, None]
    blocks = x.reshape(len(x), -1, 32)
    top = np.abs(blocks).max(axis=2, keepdims=True)
    inverse = np.divide(limit, top, out=np.zeros_like(top), where=top > 0)
    q = np.rint(blocks * inverse)
    return ((top / limit).astype(np.float64) * q).reshape(x.shape)


def rounded(x: np.ndarray) -> np.ndarray:
    """The nearest bf16, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def product(
    small: Callable[..., Any],
    isa: str,
    matrix: Any,
    x: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    times: int = 1,
) -> np.ndarray:
    """The layer's output for `x`, accumulated `times`; rows from position FIRST on."""
    program = small(isa)
    source, out = program.values(x), program.buffer(64)
    act = program.prepare(source, K, operand=1 if matrix.store < 3 else 2 if matrix.store == BF16 else 0)
    for i in range(times):
        program.linear(matrix, act, out, bias=bias, accumulate=i > 0)
    program.result(out, 64)
    logits, _ = program.run((len(x), FIRST, range(4)))
    return logits[:, :N].astype(np.float64)


def terms(raw: np.ndarray, type: TensorType) -> tuple[np.ndarray, np.ndarray]:
    """Weights in float64, and how large the parts are that they are summed from."""
    form = codes(raw, type, (N, K))
    q = form.q.astype(np.float64) - form.zero
    scaled = np.repeat(form.scale.astype(np.float64), form.group, axis=1) * q
    if form.minimum is None:
        return scaled, np.abs(scaled)
    minimum = np.repeat(form.minimum.astype(np.float64), form.group, axis=1)
    return scaled + minimum, np.abs(scaled) + np.abs(minimum)


@pytest.mark.parametrize("type", QUANTISED, ids=lambda type: type.name)
def test_integer_products_are_exact_up_to_float32_sums(
    type: TensorType,
    isa: str,
    small: Callable[..., Any],
    packed_raw: Callable[..., Any],
    random_raw: Callable[..., np.ndarray],
) -> None:
    raw, x = random_raw(type, N, K), inputs()
    weights, sizes = terms(raw, type)
    a = quantised(x, FIRST + np.arange(ROWS) < 64)
    error = np.abs(product(small, isa, packed_raw(raw, type, N, K), x) - a @ weights.T)
    folds = K // 16  # at most; each rounds a few times
    assert (error <= 4 * folds * EPSILON * (np.abs(a) @ sizes.T) + 1e-30).all()


@pytest.mark.parametrize("type", FLOATS, ids=lambda type: type.name)
def test_float_products_are_exact_up_to_float32_sums(
    type: TensorType,
    isa: str,
    small: Callable[..., Any],
    packed_raw: Callable[..., Any],
    random_raw: Callable[..., np.ndarray],
) -> None:
    raw, x = random_raw(type, N, K), inputs()
    weights = dequantise(raw, type, (N, K)).astype(np.float64)
    a = (rounded(x) if type is TensorType.BF16 else x).astype(np.float64)
    error = np.abs(product(small, isa, packed_raw(raw, type, N, K), x) - a @ weights.T)
    assert (error <= K * EPSILON * (np.abs(x) @ np.abs(weights).T)).all()


def test_sixteen_bits_are_kept_for_early_positions(
    small: Callable[..., Any], packed_raw: Callable[..., Any], random_raw: Callable[..., np.ndarray]
) -> None:
    raw, x = random_raw(TensorType.Q8_0, N, K), inputs()
    weights, _ = terms(raw, TensorType.Q8_0)
    exact = x.astype(np.float64) @ weights.T
    error = np.linalg.norm(product(small, "", packed_raw(raw, TensorType.Q8_0, N, K), x) - exact, axis=1)
    relative = error / np.linalg.norm(exact, axis=1)
    assert (relative[: 64 - FIRST] < 1e-4).all()
    assert (relative[64 - FIRST :] > 1e-4).any()


@pytest.mark.parametrize(
    "type", [TensorType.Q4_K, TensorType.F16, TensorType.BF16], ids=lambda type: type.name
)
def test_bias_and_accumulation_are_added_once_each(
    type: TensorType,
    isa: str,
    small: Callable[..., Any],
    packed_raw: Callable[..., Any],
    random_raw: Callable[..., np.ndarray],
) -> None:
    matrix, x = packed_raw(random_raw(type, N, K), type, N, K), inputs()
    bias = np.zeros(64, np.float32)
    bias[:N] = np.random.default_rng(2).normal(size=N)
    once = product(small, isa, matrix, x).astype(np.float32)
    assert np.array_equal(product(small, isa, matrix, x, bias=bias), once + bias[:N])
    assert np.array_equal(
        product(small, isa, matrix, x, bias=bias, times=2), (once + bias[:N]) + (once + bias[:N])
    )


@pytest.mark.parametrize("type", [*QUANTISED, *FLOATS], ids=lambda type: type.name)
def test_a_row_has_the_same_bits_alone_in_a_batch_and_on_every_instruction_set(
    type: TensorType,
    isa: str,
    small: Callable[..., Any],
    packed_raw: Callable[..., Any],
    random_raw: Callable[..., np.ndarray],
) -> None:
    matrix, x = packed_raw(random_raw(type, N, K), type, N, K), inputs()
    together = product(small, isa, matrix, x)
    assert np.array_equal(together, product(small, "scalar", matrix, x))
    for count in (1, 5, 9):
        assert np.array_equal(product(small, isa, matrix, x[:count]), together[:count])
