"""Low-rank additions of a program: right in float64, and the same bits whatever runs beside a row."""

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sampan.kernels.backend import Span
from sampan.kernels.cpu import _native
from sampan.kernels.formats import TensorType

INPUTS, PARTS, RANK, ROWS = 96, (40, 16, 70), 33, 60
STARTS, WIDTH = (0, 48, 64), 144  # of the parts' outputs: whole panels
Small = Callable[..., Any]
Adapter = list[tuple[np.ndarray, np.ndarray] | None]


def packed(pool: Any, values: np.ndarray, type: TensorType = TensorType.F32) -> Any:
    matrix = _native.Packed.of(*values.shape, type.number)
    kind = np.float16 if type is TensorType.F16 else np.float32
    raw = np.ascontiguousarray(values, kind).reshape(-1).view(np.uint8)
    matrix.fill(pool, raw, type.number, 0, len(values))
    return matrix


def adapters() -> list[Adapter]:
    """Ranks of less than a panel, of one and of three; the second and third leave parts alone."""
    rng = np.random.default_rng(2)

    def one(ranks: tuple[int, ...]) -> Adapter:
        return [
            (rng.normal(0, 1, (r, INPUTS)).astype(np.float32), rng.normal(0, 1, (n, r)).astype(np.float32))
            if r
            else None
            for n, r in zip(PARTS, ranks, strict=True)
        ]

    return [one((5, 16, 1)), one((33, 0, 7)), one((0, 20, 0))]


def load(program: Any, pool: Any, slot: int, adapter: Adapter, type: TensorType = TensorType.F32) -> None:
    parts = []
    for number, pair in enumerate(adapter):
        if pair is not None:
            a, b = pair
            padded = np.zeros((len(b), -(-len(a) // 16) * 16), np.float32)
            padded[:, : len(a)] = b
            parts.append((number, packed(pool, a, type), packed(pool, padded, type)))
    program.set_adapter(slot, parts)


class Adapted:
    """W x for the rows of a step, with what their adapters add."""

    def __init__(self, small: Small, isa: str, x: np.ndarray, w: np.ndarray, **sizes: Any) -> None:
        self.small = small(isa, **sizes)
        program = self.program = self.small.program
        program.adapters(3, RANK)
        source, out = self.small.values(x), self.small.buffer(WIDTH)
        act = self.small.prepare(source, INPUTS)
        self.small.linear(self.small.floats(w), act, out)
        program.adapt(list(PARTS), act, out, 0, False)
        self.small.result(out, WIDTH)

    def run(self, counts: list[int], slots: list[int] | None, rows: np.ndarray) -> np.ndarray:
        """Spans of `counts` rows, each with a slot; `rows` of the values they read."""
        parts = np.split(rows, np.cumsum(counts)[:-1])
        chosen = slots or [-1] * len(counts)
        held = array("i", range(2))
        self.program.run(
            [
                Span(part.tolist(), 0, held, len(part), slot)[:8]
                for part, slot in zip(parts, chosen, strict=True)
            ]
        )
        logits: np.ndarray = self.program.sampled_logits.copy()
        return logits


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (ROWS, INPUTS)).astype(np.float32)


@pytest.fixture
def w() -> np.ndarray:
    return np.random.default_rng(4).normal(0, 1, (WIDTH, INPUTS)).astype(np.float32)


def test_each_span_gets_what_its_adapter_adds(
    small: Small, isa: str, pool: Any, x: np.ndarray, w: np.ndarray
) -> None:
    adapted = Adapted(small, isa, x, w)
    for slot, adapter in enumerate(adapters()):
        load(adapted.program, pool, slot, adapter)
    found = adapted.run([30, 1, 26, 2, 1], [1, 0, -1, 2, 1], np.arange(ROWS))
    expected = x.astype(np.float64) @ w.T
    slot_of = np.repeat([1, 0, -1, 2, 1], [30, 1, 26, 2, 1])
    for slot, adapter in enumerate(adapters()):
        for start, pair in zip(STARTS, adapter, strict=True):
            if pair is not None:
                a, b = (m.astype(np.float64) for m in pair)
                rows = slot_of == slot
                expected[np.ix_(rows, range(start, start + len(b)))] += x[rows] @ a.T @ b.T
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    plain = adapted.run([ROWS], None, np.arange(ROWS))
    assert np.array_equal(found[slot_of == -1], plain[slot_of == -1])


@pytest.mark.parametrize("type", [TensorType.F32, TensorType.F16])
def test_a_rows_bits_depend_on_the_row_and_its_adapter(
    small: Small, pool: Any, x: np.ndarray, w: np.ndarray, type: TensorType
) -> None:
    """Every instruction set, any number of threads, alone or in company: the scalar kernels' bits."""
    expected: np.ndarray | None = None
    for isa in ("scalar", *_native.isas()):
        for threads in (1, 3):
            adapted = Adapted(small, isa, x, w, pool=_native.Pool(threads))
            for slot, adapter in enumerate(adapters()):
                load(adapted.program, pool, slot, adapter, type)
            whole = adapted.run([ROWS], [1], np.arange(ROWS))
            expected = whole if expected is None else expected
            assert np.array_equal(whole, expected)
            company = adapted.run([7, 20, 3, 1], [0, 1, -1, 1], np.arange(31))
            assert np.array_equal(company[7:27], expected[7:27])
            assert np.array_equal(company[30], expected[30])
            assert np.array_equal(adapted.run([1], [1], np.array([44]))[0], expected[44])


def test_a_slot_can_be_filled_again_and_emptied(
    small: Small, pool: Any, x: np.ndarray, w: np.ndarray
) -> None:
    adapted, rows = Adapted(small, "", x, w), np.arange(ROWS)
    plain = adapted.run([ROWS], [0], rows)  # a slot without an adapter adds nothing
    assert np.array_equal(plain, adapted.run([ROWS], None, rows))
    first, second, _ = adapters()
    load(adapted.program, pool, 0, first)
    before = adapted.run([ROWS], [0], rows)
    load(adapted.program, pool, 0, second)
    assert not np.array_equal(adapted.run([ROWS], [0], rows), before)
    load(adapted.program, pool, 0, first)
    assert np.array_equal(adapted.run([ROWS], [0], rows), before)
    adapted.program.clear_adapter(0)
    assert np.array_equal(adapted.run([ROWS], [0], rows), plain)


def test_what_does_not_fit_is_a_value_error(small: Small, pool: Any, x: np.ndarray, w: np.ndarray) -> None:
    with pytest.raises(ValueError, match="room"):
        small().program.adapters(0, 16)
    with pytest.raises(ValueError, match="no room was made"):
        small().program.adapt([16], 0, 0, 0, False)
    adapted = Adapted(small, "", x, w)
    program = adapted.program
    with pytest.raises(ValueError, match="once"):
        program.adapters(1, 16)
    a, b = packed(pool, np.ones((16, INPUTS))), packed(pool, np.ones((40, 16)))
    quantised = _native.Packed.of(16, INPUTS, TensorType.Q8_0.number)
    wide, short = packed(pool, np.ones((49, INPUTS))), packed(pool, np.ones((16, 64)))
    wide_b, narrow_b = packed(pool, np.ones((40, 64))), packed(pool, np.ones((40, 8)))
    for slot, part, *pair in [
        (3, 0, a, b), (-1, 0, a, b), (0, 3, a, b), (0, -1, a, b), (0, 0, quantised, b), (0, 0, short, b),
        (0, 0, wide, wide_b), (0, 1, a, b), (0, 0, a, narrow_b),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="adapter"):
            program.set_adapter(slot, [(part, *pair)])
    with pytest.raises(ValueError, match="slot outside"):
        program.clear_adapter(3)
    with pytest.raises(ValueError, match="slot outside"):
        adapted.run([4], [3], np.arange(4))
    with pytest.raises(ValueError, match="all, plain or adapted"):
        program.record_for("some")
    integer = adapted.small.activations(INPUTS, 1)
    for outputs, act, out, offset in [([], 0, 1, 0), ([0], 0, 1, 0), ([16], integer, 1, 0), ([16], 99, 1, 0),
                                      ([16], 0, 99, 0), ([16], 0, 1, WIDTH), ([16], 0, 1, -1)]:  # fmt: skip
        with pytest.raises(ValueError, match=r"adapt|activations|room"):
            program.adapt(outputs, act, out, offset, False)
