"""A plan's arrays: rows one sequence after another, with positions, page tables and sampled rows."""

from array import array

from sampan.core.types import SamplingParams
from sampan.engine.batch import arrays
from sampan.engine.sequence import Sequence, Span


def sequence(tokens: list[int], pages: list[int]) -> Sequence:
    return Sequence(0, tokens, len(tokens), SamplingParams(), 0, 99, frozenset(), array("i", pages))


def test_spans_become_rows() -> None:
    a, b, c = sequence([10, 11, 12, 13], [4, 2]), sequence([20, 21], [7]), sequence([30, 31, 32], [0, 1, 3])
    plan = [Span(a, 3, 1, sample=True), Span(b, 0, 1, sample=False), Span(c, 1, 2, sample=True)]
    got = arrays(plan)
    assert got.ids.tolist() == [13, 20, 31, 32]
    assert got.positions.tolist() == [3, 0, 1, 2]
    assert got.spans.tolist() == [[0, 1, 3], [1, 1, 0], [2, 2, 1]]
    assert got.pages.tolist() == [[4, 2, 0], [7, 0, 0], [0, 1, 3]]
    assert got.sampled.tolist() == [0, 3]
    assert arrays(plan, sample_all=True).sampled.tolist() == [0, 1, 2, 3]


def test_a_plan_may_sample_nothing() -> None:
    got = arrays([Span(sequence([1, 2], [0]), 0, 1, sample=False)])
    assert got.sampled.shape == (0,)
    assert got.ids.tolist() == [1]


def test_a_draft_adds_rows_that_are_sampled_too() -> None:
    a, b = sequence([10, 11, 12], [4, 2]), sequence([20, 21], [7])
    got = arrays([Span(a, 2, 3, True, (13, 14)), Span(b, 1, 1, True)])
    assert got.ids.tolist() == [12, 13, 14, 21]
    assert got.positions.tolist() == [2, 3, 4, 1]
    assert got.spans.tolist() == [[0, 3, 2], [3, 1, 1]]
    assert got.sampled.tolist() == [0, 1, 2, 3]
