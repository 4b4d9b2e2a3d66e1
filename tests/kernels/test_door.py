"""The native module's door: a wrong shape, index, page or span is a ValueError in words, never a crash."""

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sampan.kernels import _native
from sampan.kernels.formats import TensorType

Q4_1, Q8_0, Q4_K = (t.number for t in (TensorType.Q4_1, TensorType.Q8_0, TensorType.Q4_K))
HUGE = 2**31 - 1
ONES = np.ones(64, np.float32)


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 64, 0, 32, False, False, 0),
        (HUGE, 64, 0, 32, False, False, 0),
        (64, 0, 0, 32, False, False, 0),
        (64, 64, 6, 32, False, False, 0),
        (64, 64, 0, 48, False, False, 0),
        (64, 64, 0, 128, False, False, 0),  # k is not a multiple of the group
        (64, 48, 0, 16, False, False, 0),  # nor of 32
        (64, 64, 0, 32, False, False, 256),
        (64, 64, 0, 32, False, False, 8, np.zeros(7, np.uint8)),
    ],
)
def test_a_matrix_has_a_shape_that_the_kernels_know(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="matrix"):
        _native.Packed(*arguments)


def test_a_matrix_of_blocks_holds_whole_blocks() -> None:
    for k in (32, 288, 300):
        with pytest.raises(ValueError, match="multiple"):
            _native.Packed.of(16, k, Q4_K)
    with pytest.raises(ValueError, match="unknown source"):
        _native.Packed.of(16, 256, 99)


@pytest.mark.parametrize(
    ("source", "size", "first", "rows", "order", "what"),
    [
        (Q8_0, 34 * 32, 0, 16, None, "does not match the matrix"),
        (Q4_K, 144 * 16, 0, 16, None, "does not match the matrix"),  # 4 bits too, but other scales
        (Q4_1, 20 * 8 * 16 - 1, 0, 16, None, "raw bytes"),
        (Q4_1, 20 * 8 * 16, 5, 16, None, "rows outside"),
        (Q4_1, 20 * 8 * 16, 32, 16, None, "rows outside"),
        (Q4_1, 20 * 8 * 100, 2**31 - 16, 100, None, "rows outside"),
        (Q4_1, 0, 0, 0, None, "rows outside"),
        (Q4_1, 20 * 8 * 2, 0, 2, ints(0), "order"),
        (Q4_1, 20 * 8 * 2, 0, 2, ints(0, 2), "order"),
        (Q4_1, 20 * 8 * 2, 0, 2, ints(0, -1), "order"),
    ],
)
def test_filling_takes_exactly_the_bytes_of_its_rows(
    pool: Any, source: int, size: int, first: int, rows: int, order: np.ndarray | None, what: str
) -> None:
    matrix = _native.Packed.of(32, 256, Q4_1)
    with pytest.raises(ValueError, match=what):
        matrix.fill(pool, np.zeros(size, np.uint8), source, first, rows, order)


def test_plain_codes_have_the_shapes_of_their_matrix(pool: Any) -> None:
    matrix = _native.Packed(32, 64, 0, 32, False, False, 8)
    codes, scales = np.zeros((16, 64), np.uint8), np.zeros((16, 2), np.uint16)
    for args in [
        (codes[:, :32].copy(), scales, None, 0),
        (codes, scales[:8].copy(), None, 0),
        (codes, scales, scales, 0),
        (codes, scales, None, 32),
        (codes, scales, None, 2**31 - 16),
        (codes, scales, None, 8),
    ]:
        with pytest.raises(ValueError, match="fill_codes"):
            matrix.fill_codes(pool, *args)


def test_instruction_sets_and_programs_are_known(pool: Any) -> None:
    with pytest.raises(ValueError, match="mmx"):
        _native.isa("mmx")
    for sizes in [
        (0, 1, 1, 1, 1, 32),
        (1, 0, 1, 1, 1, 32),
        (1, 1, 1, 0, 1, 32),
        (1, 1, 1, 1, 0, 32),
        (1, 1, 1, 1, 1, 48),
    ]:
        with pytest.raises(ValueError, match="program"):
            _native.Program(pool, "", *sizes, [1.0] * (sizes[-1] // 2), 1.0)
    with pytest.raises(ValueError, match="frequency"):
        _native.Program(pool, "", 1, 1, 1, 1, 1, 32, [1.0], 1.0)
    with pytest.raises(ValueError, match="cache type"):
        _native.Program(pool, "", 1, 1, 3, 1, 1, 32, [1.0] * 16, 1.0)


# A program's first buffer, of 128 features, and its first activations, of 64; one layer, one KV head of 32.
SOURCE, ACT = 0, 0
WRONG: dict[str, Callable[[Any], Any]] = {
    "buffer of no width": lambda p: p.program.buffer(0),
    "activations in part of a block": lambda p: p.program.activations(40, 1),
    "embedding into nothing": lambda p: p.program.embed(p.floats(np.eye(64)), 999),
    "embedding too wide": lambda p: p.program.embed(p.floats(np.zeros((16, 129))), SOURCE),
    "prepare from nothing": lambda p: p.prepare(-1, 64),
    "prepare past the end": lambda p: p.prepare(SOURCE, 64, offset=65),
    "gate and up past the end": lambda p: p.prepare(SOURCE, 64, op=2, up=65),
    "unknown operation": lambda p: p.prepare(SOURCE, 64, op=3),
    "norm without weight": lambda p: p.prepare(SOURCE, 64, op=1),
    "norm with a short weight": lambda p: p.prepare(SOURCE, 64, op=1, weight=ONES[:63].copy()),
    "linear from nothing": lambda p: p.linear(p.floats(np.eye(64)), 999, SOURCE),
    "linear with other inputs": lambda p: p.linear(p.floats(np.zeros((64, 96))), ACT, SOURCE),
    "integers from floats": lambda p: p.linear(_native.Packed.of(64, 64, Q8_0), ACT, SOURCE),
    "linear past the end": lambda p: p.linear(p.floats(np.eye(64)), ACT, SOURCE, offset=65),
    "short bias": lambda p: p.linear(p.floats(np.eye(64)), ACT, SOURCE, bias=ONES[:63].copy()),
    "rope without room": lambda p: p.program.rope(SOURCE, 2, 64, 97, 1.0, 0, None, None, 0.0),
    "rope of another layer": lambda p: p.program.rope(SOURCE, 2, 64, 96, 1.0, 1, None, None, 0.0),
    "rope with a long norm": lambda p: p.program.rope(SOURCE, 2, 64, 96, 1.0, 0, ONES, ONES, 0.0),
    "attention without heads": lambda p: p.program.attend(SOURCE, p.program.buffer(64), 0, 0),
    "attention of too many heads": lambda p: p.program.attend(SOURCE, p.program.buffer(64), 5, 0),
    "attention without room": lambda p: p.program.attend(SOURCE, p.program.buffer(32), 2, 0),
    "statistics of no logits": lambda p: p.program.stats(SOURCE, 64),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_instruction_reads_and_writes_inside_its_buffers(name: str, small: Callable[..., Any]) -> None:
    program = small()
    assert program.values(np.zeros((64, 128), np.float32)) == SOURCE
    assert program.prepare(SOURCE, 64) == ACT
    with pytest.raises(ValueError, match=r"\w+: "):
        WRONG[name](program)


def test_logits_are_the_program_s_own_and_wide_enough(small: Callable[..., Any]) -> None:
    program = small()
    act = program.prepare(program.values(np.zeros((64, 64), np.float32)), 64, sampled=True)
    with pytest.raises(ValueError, match="no logits"):
        program.run(ids=[0])
    logits = program.program.logits(48)
    with pytest.raises(ValueError, match="one positive width"):
        program.program.logits(48)
    with pytest.raises(ValueError, match="no room"):
        program.linear(program.floats(np.eye(64)), act, logits, sampled=True)
    with pytest.raises(ValueError, match="no room"):  # every row, where only the sampled ones have room
        program.linear(program.floats(np.zeros((48, 64))), act, logits)
    with pytest.raises(ValueError, match="vocabulary"):
        program.program.stats(logits, 49)


def span(
    ids: Any = (0, 1), before: int = 0, pages: Any = (0, 1), sampled: int = 1, slot: int = -1
) -> tuple[Any, ...]:
    return list(ids), before, array("i", pages), sampled, slot


@pytest.mark.parametrize(
    ("spans", "what"),
    [
        ([], "rows"),
        ([span(ids=())], "rows"),
        ([span(), span(ids=())], "rows"),
        ([span(ids=[0] * 65, pages=range(4))], "rows"),
        ([span(ids=[0] * 33), span(ids=[0] * 32)], "rows"),
        ([span(ids=(0, 64))], "token id"),
        ([span(ids=(0, -1))], "token id"),
        ([span(ids=(0, HUGE))], "token id"),
        ([span(before=-1)], "tokens before"),
        ([span(before=63)], "past its pages"),
        ([span(before=HUGE)], "past its pages"),
        ([span(pages=())], "past its pages"),
        ([span(pages=(4, 0))], "page outside"),
        ([span(pages=(-1, 0))], "page outside"),
        ([span(before=31, pages=(0, 4))], "page outside"),
        ([span(sampled=3)], "sampled"),
        ([span(sampled=-1)], "sampled"),
        ([span(), span(sampled=3)], "sampled"),
        ([span(slot=0)], "slot"),
        ([span(slot=-2)], "slot"),
    ],
)
def test_a_step_names_what_exists(spans: list[tuple[Any, ...]], what: str, small: Callable[..., Any]) -> None:
    program = small()
    program.result(program.values(np.eye(64, dtype=np.float32)), 64)
    assert program.program.sampled_logits.shape == (0, 64)
    with pytest.raises(ValueError, match=what):
        program.program.run(spans)
    assert program.program.run([span()])[0] == [1]
    assert program.program.sampled_logits.shape == (1, 64)


@pytest.mark.parametrize(
    "wrong",
    [
        ([0.5], 0, array("i", (0,)), 1, -1),
        ([0], 0, [0], 1, -1),
        ([0], 0, array("q", (0,)), 1, -1),
        ([0], 0, array("i", (0,)), 1),
        ([2**31], 0, array("i", (0,)), 1, -1),
    ],
)
def test_a_span_is_of_whole_numbers(wrong: tuple[Any, ...], small: Callable[..., Any]) -> None:
    program = small()
    program.result(program.values(np.eye(64, dtype=np.float32)), 64)
    with pytest.raises(TypeError):
        program.program.run([wrong])


def test_a_plan_may_sample_nothing_or_all(small: Callable[..., Any]) -> None:
    program = small()
    program.result(program.values(np.eye(64, dtype=np.float32)), 64)
    for sampled, best in [(0, []), (1, [5]), (2, [4, 5]), (3, [3, 4, 5])]:
        found = program.program.run([span((7, 8), sampled=0), span((3, 4, 5), 1, (3,), sampled)])
        assert found[0] == best
        assert program.program.sampled_logits.argmax(axis=1).tolist() == best
