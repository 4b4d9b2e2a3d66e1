"""Norm, SwiGLU and the logits' summary, against float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sampan.kernels.cpu import _native
from sampan.kernels.cpu.machine import Operand

K, ROWS = 160, 12


def rows(width: int = K, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1, (ROWS, width)) * 10.0 ** rng.integers(-3, 3, (ROWS, 1))).astype(np.float32)


def prepared(small: Callable[..., Any], isa: str, x: np.ndarray, **how: Any) -> np.ndarray:
    program = small(isa)
    program.head(program.prepare(program.values(x), K, sampled=True, **how), np.eye(K, dtype=np.float32))
    logits, _ = program.run(ids=range(len(x)))
    return logits


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 0.1])
def test_norm_is_rms_norm(eps: float, isa: str, small: Callable[..., Any]) -> None:
    x, weight = rows(), rows(seed=2)[0]
    exact = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + eps) * weight
    got = prepared(small, isa, x, op="norm", weight=weight, eps=eps)
    np.testing.assert_allclose(got, exact, rtol=1e-6)


def test_swiglu_is_silu_of_the_gate_times_up(isa: str, small: Callable[..., Any]) -> None:
    x = rows(2 * K + 16)
    gate, up = x[:, 16 : 16 + K].astype(np.float64), x[:, 16 + K :].astype(np.float64)
    with np.errstate(over="ignore"):
        exact = gate / (1 + np.exp(-gate)) * up
    got = prepared(small, isa, x, op="swiglu", offset=16, up=K)
    np.testing.assert_allclose(got, exact, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize(
    "how",
    [{"op": "copy"}, {"op": "norm", "weight": np.ones(K, np.float32)}, {"op": "swiglu"}],
    ids=["copy", "norm", "swiglu"],
)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("operand", Operand, ids=lambda operand: operand.name)
def test_what_is_not_finite_stays_so_and_spoils_no_other_row(
    how: dict[str, Any], special: float, operand: Operand, isa: str, small: Callable[..., Any]
) -> None:
    x = rows()
    x[3, 40] = special
    program = small(isa)
    act = program.prepare(program.values(x), K, operand=operand, sampled=True, **how)
    weights = np.ones((16, K), np.float32)
    logits = program.program.logits(16, 16)
    make = {Operand.F32: program.floats, Operand.BF16: program.bf16}
    matrix = eight_bits(program, weights) if operand is Operand.INT8 else make[operand](weights)
    program.linear(matrix, act, logits, sampled=True)
    program.add("stats", x=logits, sampled=True)
    logits, summary = program.run(ids=range(ROWS))
    assert np.isfinite(logits).all(axis=1).tolist() == [row != 3 for row in range(ROWS)]
    assert list(summary.unsound) == [3]


def eight_bits(program: Any, weights: np.ndarray) -> Any:
    """`weights`, whole numbers, as 8-bit codes."""
    n, k = weights.shape
    matrix = _native.Packed(n, k, 2, 32, False, False, 128)
    ones = np.ones((n, k // 32), np.float16).view(np.uint16)
    matrix.fill_codes(program.pool, (weights + 128).astype(np.uint8), ones, None, 0)
    return matrix


def logits_of(
    small: Callable[..., Any], isa: str, x: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, Any]:
    program = small(isa)
    program.head(program.prepare(program.values(x), x.shape[1], sampled=True), weights)
    found: tuple[np.ndarray, Any] = program.run(ids=range(len(x)))
    return found


@pytest.mark.parametrize("vocabulary", [1, 17, 4096, 4097, 9000])
def test_a_step_summarises_its_logits(vocabulary: int, isa: str, small: Callable[..., Any]) -> None:
    rng = np.random.default_rng(4)
    weights = rng.normal(0, 3, (vocabulary, 16)).astype(np.float32)
    weights[vocabulary // 2 :: 3] = weights[0]  # ties
    logits, summary = logits_of(small, isa, rng.normal(0, 1, (5, 16)).astype(np.float32), weights)
    assert logits.shape == (5, vocabulary)
    exact = logits.astype(np.float64)
    top = exact.max(axis=1)
    assert summary.best == exact.argmax(axis=1).tolist()
    totals = np.log(np.exp(exact - top[:, None]).sum(axis=1)) + top
    np.testing.assert_allclose(summary.log_totals, totals, rtol=0, atol=1e-5)
    assert summary.logprobs == (top - summary.log_totals).tolist()
    assert summary.unsound == {}


@pytest.mark.parametrize("vocabulary", [1, 17, 4096, 9000])
@pytest.mark.parametrize("threads", [1, 9])
def test_rows_with_targets_have_the_bits_of_a_step_that_holds_its_logits(
    vocabulary: int, threads: int, isa: str, small: Callable[..., Any]
) -> None:
    """Other rows' logits are held, in their order."""
    rng = np.random.default_rng(5)
    program = small(isa, rows=120, pool=_native.Pool(threads))
    x, weights = rng.normal(0, 1, (120, 32)), rng.normal(0, 3, (vocabulary, 32))
    x[70, 3] = np.nan
    values = program.values(x.astype(np.float32))
    program.head(program.prepare(values, 32, sampled=True), weights.astype(np.float32))
    for rows in (1, 5, 120):
        ids = list(range(rows))
        logits, summary = program.run(ids=ids)
        targets = rng.integers(0, vocabulary, rows // 2 + 1).tolist()
        held, found = program.run(ids=ids, targets=targets)
        assert repr(found[:4]) == repr(summary[:4])
        np.testing.assert_array_equal(found.chosen[: len(targets)], logits[range(len(targets)), targets])
        assert found.held == [-1] * len(targets) + list(range(rows - len(targets)))
        np.testing.assert_array_equal(held.view(np.int32), logits[len(targets) :].view(np.int32))


@pytest.mark.parametrize("best", [0, 4095, 4096, 8999])
def test_every_chunk_of_the_logits_counts(best: int, isa: str, small: Callable[..., Any]) -> None:
    """Logits of one size, but for the best: each weighs the same in the total, wherever the best lies."""
    weights = np.ones((9000, 16), np.float32)
    weights[best] *= 1.25
    weights[best + 1 :: 1000] = weights[best]  # as large, but later
    logits, summary = logits_of(small, isa, np.ones((2, 16), np.float32), weights)
    larger = int((logits[0] == 20).sum())
    assert summary.best == [best, best]
    exact = np.log(larger * np.exp(20.0) + (9000 - larger) * np.exp(16.0))
    np.testing.assert_allclose(summary.log_totals, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 100, 4999])
def test_a_logit_that_is_not_finite_is_told(
    special: float, at: int, isa: str, small: Callable[..., Any]
) -> None:
    weights = np.random.default_rng(6).normal(0, 1, (5000, 16)).astype(np.float32)
    weights[at] = special
    _, summary = logits_of(small, isa, np.ones((1, 16), np.float32), weights)
    assert summary.unsound == {0: -1}
