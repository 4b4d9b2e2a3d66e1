"""The native module's door: a wrong shape, index, page or span is a ValueError in words, never a crash."""

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sampan.kernels.cpu import _native
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
        (64, 64, 7, 32, False, False, 0),
        (64, 62, 6, 32, False, False, 0),  # E4M3 goes by fours
        (64, 64, 6, 30, False, False, 0),
        (64, 64, 6, 0, False, False, 0),
        (64, 64, 6, 32, False, True, 0),
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
    for rows, pages, *layer in [
        (0, 1, 1, 32, 32), (1, 0, 1, 32, 32), (1, 1, 0, 32, 32), (1, 1, 1, 0, 32), (1, 1, 1, 48, 32),
        (1, 1, 1, 32, 40),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="program"):
            _native.Program(pool, "", rows, pages, "f32", [tuple(layer)])
    with pytest.raises(ValueError, match="cache 'f8' is not known"):
        _native.Program(pool, "", 1, 1, "f8", [(1, 32, 32)])


def test_everything_lies_in_the_memory_that_was_reserved(pool: Any) -> None:
    program = _native.Program(pool, "", 4, 1, "f32", [(1, 32, 32)])
    program.reserve(4 * 64 * 4)
    assert program.buffer(0, 64) == 0
    for offset, width in [(64, 64), (1 << 40, 1), (4, 16)]:
        with pytest.raises(ValueError, match="outside the reserved memory"):
            program.buffer(offset, width)
    with pytest.raises(ValueError, match="outside the reserved memory"):
        program.activations(64, 64, 0)
    with pytest.raises(ValueError, match="outside the reserved memory"):
        program.angles(64, [1.0] * 32, 1.0)


# A program's first buffer, of 128 features, and its first activations, of 64; one layer, one KV head of 32.
SOURCE, ACT = 0, 0


def heads(program: Any, **fields: int) -> None:
    """Heads of the source laid out in a buffer of 128 features."""
    program.add("map", map="heads", x=SOURCE, out=program.buffer(128), **fields)


WRONG: dict[str, Callable[[Any], Any]] = {
    "buffer of no width": lambda p: p.buffer(0),
    "activations in part of a block": lambda p: p.activations(40, 1),
    "embedding into nothing": lambda p: p.add("embed", matrix=p.floats(np.eye(64)), out=999),
    "embedding too wide": lambda p: p.add("embed", matrix=p.floats(np.zeros((16, 129))), out=SOURCE),
    "prepare from nothing": lambda p: p.prepare(-1, 64),
    "prepare past the end": lambda p: p.prepare(SOURCE, 64, offset=65),
    "gate and up past the end": lambda p: p.prepare(SOURCE, 64, op="swiglu", up=65),
    "unknown operation": lambda p: p.prepare(SOURCE, 64, op="sine"),
    "norm without weight": lambda p: p.prepare(SOURCE, 64, op="norm"),
    "norm with a short weight": lambda p: p.prepare(SOURCE, 64, op="norm", weight=ONES[:63].copy()),
    "linear from nothing": lambda p: p.linear(p.floats(np.eye(64)), 999, SOURCE),
    "linear with other inputs": lambda p: p.linear(p.floats(np.zeros((64, 96))), ACT, SOURCE),
    "integers from floats": lambda p: p.linear(_native.Packed.of(64, 64, Q8_0), ACT, SOURCE),
    "linear past the end": lambda p: p.linear(p.floats(np.eye(64)), ACT, SOURCE, offset=65),
    "short bias": lambda p: p.linear(p.floats(np.eye(64)), ACT, SOURCE, bias=ONES[:63].copy()),
    "append without room": lambda p: p.append(SOURCE, 64, 97, 2),
    "append to another layer": lambda p: p.append(SOURCE, 64, 96, 2, 1),
    "append with a short norm": lambda p: p.append(
        SOURCE, 64, 96, 2, 0, (ONES[:31].copy(), 0, -1, 0, False, 1)
    ),
    "append with unknown angles": lambda p: p.append(SOURCE, 64, 96, 2, 0, (None, 0.0, 3, 0, False, 1.0)),
    "attention without heads": lambda p: p.add("attend", x=SOURCE, out=p.buffer(64), heads=0, layer=0),
    "attention of too many heads": lambda p: p.add("attend", x=SOURCE, out=p.buffer(64), heads=5, layer=0),
    "attention without room": lambda p: p.add("attend", x=SOURCE, out=p.buffer(32), heads=2, layer=0),
    "rotation past the head": lambda p: p.add(
        "rotate", x=SOURCE, heads=2, size=32, turn=(None, 0.0, p.angles([1.0] * 16), 2, False, 1.0)
    ),
    "norm of parts of runs": lambda p: p.add("norm", x=SOURCE, out=SOURCE, width=40, size=32, weight=ONES),
    "norm of odd runs with a short weight": lambda p: p.add(
        "norm", x=SOURCE, out=SOURCE, width=24, size=24, weight=ONES[:23].copy()
    ),
    "more features than rows have": lambda p: p.add("prepare", prep="copy", x=SOURCE, act=ACT, width=65),
    "heads past the end": lambda p: heads(p, heads=4, size=40, kept=20, fill=20, width=20),
    "heads past the end of the result": lambda p: heads(p, heads=3, size=20, kept=20, fill=64, width=64),
    "heads longer than they are": lambda p: heads(p, heads=2, size=20, kept=24, fill=32, width=32),
    "heads over each other": lambda p: heads(p, heads=2, size=20, kept=20, fill=40, width=32),
    "heads in place": lambda p: p.add(
        "map", map="heads", x=SOURCE, out=SOURCE, heads=2, size=20, kept=20, fill=32, width=32
    ),
    "norm past the end": lambda p: p.add("norm", x=(SOURCE, 96), out=SOURCE, width=64, size=64, weight=ONES),
    "map past the end": lambda p: p.add("map", map="copy", x=SOURCE, out=(SOURCE, 65), width=64),
    "map without a second": lambda p: p.add("map", map="add", x=SOURCE, out=SOURCE, width=64),
    "unknown map": lambda p: p.add("map", map="root", x=SOURCE, out=SOURCE, width=64),
    "unknown instruction": lambda p: p.add("convolve", x=SOURCE),
    "unknown field": lambda p: p.add("map", map="copy", x=SOURCE, out=SOURCE, width=64, depth=3),
    "angles that are not there": lambda p: p.add("angles", table=3),
    "statistics of no logits": lambda p: p.add("stats", x=SOURCE, sampled=True),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_instruction_reads_and_writes_inside_its_buffers(name: str, small: Callable[..., Any]) -> None:
    program = small()
    assert program.values(np.zeros((64, 128), np.float32)) == SOURCE
    assert program.prepare(SOURCE, 64) == ACT
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        WRONG[name](program)


def test_logits_are_the_program_s_own_and_wide_enough(small: Callable[..., Any]) -> None:
    program = small()
    act = program.prepare(program.values(np.zeros((64, 64), np.float32)), 64, sampled=True)
    logits = program.program.logits(48, 48)
    with pytest.raises(ValueError, match="one positive width"):
        program.program.logits(48, 48)
    with pytest.raises(ValueError, match="no room"):
        program.linear(program.floats(np.eye(64)), act, logits, sampled=True)
    with pytest.raises(ValueError, match="no room"):  # every row, where only the sampled ones have room
        program.linear(program.floats(np.zeros((48, 64))), act, logits)
    with pytest.raises(ValueError, match="vocabulary"):
        small().program.logits(48, 49)


def test_a_program_without_logits_gives_what_it_kept(small: Callable[..., Any]) -> None:
    program = small()
    values = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    buffer = program.values(values)
    assert program.program.run([span((3, 5), sampled=1)]) == ([], [], [], {}, [], [])
    assert np.array_equal(program.program.kept(buffer, 8, 16, False), values[[3, 5], 8:24])
    with pytest.raises(ValueError, match="does not hold"):
        program.program.kept(buffer, 8, 64, False)


def span(
    ids: Any = (0, 1), before: int = 0, pages: Any = (0, 1), sampled: int = 1, slot: int = -1,
    targets: tuple[int, ...] = (), reads: int = -1, writes: int = -1,
) -> tuple[Any, ...]:  # fmt: skip
    return list(ids), before, array("i", pages), sampled, slot, targets, reads, writes


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
        ([span(targets=(1, 2))], "more targets"),
        ([span(sampled=0, targets=(1,))], "more targets"),
        ([span(targets=(64,))], "target outside"),
        ([span(targets=(-1,))], "target outside"),
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
        ([0.5], 0, array("i", (0,)), 1, -1, (), -1, -1),
        ([0], 0, [0], 1, -1, (), -1, -1),
        ([0], 0, array("q", (0,)), 1, -1, (), -1, -1),
        ([0], 0, array("i", (0,)), 1, -1, ()),
        ([0], 0, array("i", (0,)), 1, -1, (0.5,), -1, -1),
        ([2**31], 0, array("i", (0,)), 1, -1, (), -1, -1),
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
