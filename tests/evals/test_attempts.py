"""What several attempts at a problem come to."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sampan.core.errors import UsageError
from sampan.evals.statistics.attempts import majority_at, pass_at, pass_at_k
from sampan.evals.statistics.intervals import Estimate, estimate


@pytest.mark.parametrize(
    ("n", "c", "k", "chance"), [(5, 2, 2, 0.7), (5, 0, 5, 0), (5, 1, 5, 1), (8, 3, 1, 3 / 8)]
)
def test_pass_at_k_by_hand(n: int, c: int, k: int, chance: float) -> None:
    assert pass_at_k(n, c, k) == chance


@pytest.mark.parametrize(("n", "c", "k"), [(200, 3, 100), (200, 150, 10), (1000, 1, 999), (2000, 40, 64)])
def test_pass_at_k_is_the_papers_product(n: int, c: int, k: int) -> None:
    theirs = 1.0 if n - c < k else 1 - np.prod(1 - k / np.arange(n - c + 1, n + 1))
    assert pass_at_k(n, c, k) == pytest.approx(theirs, rel=1e-12)


@settings(deadline=None)
@given(st.integers(1, 300), st.data())
def test_pass_at_k_never_falls_with_more_attempts_or_more_right_ones(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    chances = [pass_at_k(n, c, k) for k in range(1, n + 1)]
    assert chances == sorted(chances)
    assert chances[0] == pytest.approx(c / n)
    if c < n:
        assert all(
            more >= less
            for more, less in zip((pass_at_k(n, c + 1, k) for k in range(1, n + 1)), chances, strict=True)
        )


def test_pass_at_k_has_no_bias() -> None:
    # Over all numbers of right ones of 10, with a chance of 0.3 each.
    expected = sum(stats.binom.pmf(c, 10, 0.3) * pass_at_k(10, c, 4) for c in range(11))
    assert expected == pytest.approx(1 - 0.7**4)


def test_every_problem_counts_once_in_pass_at_k() -> None:
    own = pass_at({"a": [True] + [False] * 3, "b": [True] * 9 + [False]}, 2)
    assert own.value == pytest.approx((pass_at_k(4, 1, 2) + pass_at_k(10, 9, 2)) / 2)
    assert (own.n, own.clusters) == (2, 2)


def test_pass_at_1_is_the_mean_with_its_clustered_error() -> None:
    draw = np.random.default_rng(3)
    results = {str(place): (draw.random(5) < draw.random()).tolist() for place in range(40)}
    flat = [float(each) for own in results.values() for each in own]
    own = pass_at(results, 1)
    theirs = estimate(flat, [place // 5 for place in range(200)])
    assert (own.value, own.stderr) == pytest.approx((theirs.value, theirs.stderr))


def test_more_attempts_than_there_are_is_refused_with_the_problem() -> None:
    results = {"first": [True, False, True], "second": [True, False]}
    with pytest.raises(UsageError, match="pass@3: problem 'second' has only 2 attempts"):
        pass_at(results, 3)
    with pytest.raises(UsageError, match="majority@3: problem 'second' has only 2 attempts"):
        majority_at(results, results, 3)


@pytest.mark.parametrize(("results", "k"), [({}, 1), ({"a": [True]}, 0), ({"a": [0.5]}, 1), ({"a": []}, 1)])
def test_attempts_that_make_no_sense_are_refused(results: dict[str, list[bool]], k: int) -> None:
    with pytest.raises(UsageError, match=f"pass@{k}"):
        pass_at(results, k)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 6), (5, 2, 0)])
def test_pass_at_k_of_impossible_counts_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(UsageError, match=f"pass@{k}"):
        pass_at_k(n, c, k)


def majority(answers: list[str | None], right: list[bool], k: int) -> float:
    return majority_at({"only": answers}, {"only": right}, k).value


@pytest.mark.parametrize(
    ("answers", "right", "k", "chance"),
    [
        (["x", "x", "y"], [True, True, False], 3, 1),
        (["x", "y"], [True, False], 2, 1 / 2),  # a tie
        (["x", "x", "y"], [True, True, False], 2, 2 / 3),  # xx once of three, xy is a tie
        (["x", None, None], [True, False, False], 3, 1),  # None has no vote
        ([None, None], [False, False], 1, 0),
        (["x", "x", "y", "y", "z"], [True, True, False, False, False], 5, 1 / 2),
        (["x", "x"], [True, False], 2, 1 / 2),  # the same answer, right in half
    ],
)  # fmt: skip
def test_majorities_by_hand(answers: list[str | None], right: list[bool], k: int, chance: float) -> None:
    assert majority(answers, right, k) == pytest.approx(chance)


def votes_of_all_draws(answers: list[str | None], right: list[bool], k: int) -> float:
    """Every draw of k counted out."""
    total = 0.0
    for draw in combinations(range(len(answers)), k):
        said = [answers[place] for place in draw if answers[place] is not None]
        if said:
            most = max(said.count(each) for each in said)
            top = {each for each in said if said.count(each) == most}
            shares = [[right[p] for p, other in enumerate(answers) if other == each] for each in top]
            total += sum(sum(own) / len(own) for own in shares) / len(top)
    return total / comb(len(answers), k)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", None]), st.booleans()), min_size=1, max_size=9),
    st.data(),
)
def test_majorities_are_those_of_all_draws_counted_out(
    said: list[tuple[str | None, bool]], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(said)))
    answers, right = [each for each, _ in said], [each for _, each in said]
    assert majority(answers, right, k) == pytest.approx(votes_of_all_draws(answers, right, k), abs=1e-12)


def test_majorities_of_a_thousand_answers_are_exact_too() -> None:
    # Two answers and an odd k: the tail of a hypergeometric distribution.
    own = majority(["x"] * 520 + ["y"] * 580, [True] * 520 + [False] * 580, 101)
    assert own == pytest.approx(stats.hypergeom.sf(50, 1100, 520, 101), rel=1e-9)


def test_the_order_of_answers_changes_no_majority() -> None:
    answers, right = ["x", "y", "x", None, "z"], [True, False, True, False, False]
    there, back = majority(answers, right, 3), majority(answers[::-1], right[::-1], 3)
    assert there == back


@pytest.mark.parametrize(
    ("answers", "right", "said"),
    [
        ({"a": ["x"]}, {"b": [True]}, "2 problems have answers or results alone"),
        ({"a": ["x", "y"]}, {"a": [True]}, "problem 'a' has 2 answers and 1 results"),
    ],
)
def test_answers_without_results_have_no_majority(
    answers: dict[str, list[str]], right: dict[str, list[bool]], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        majority_at(answers, right, 1)


def test_a_majority_is_an_estimate_over_the_problems() -> None:
    own = majority_at({"a": ["x"], "b": ["x"], "c": ["y"]}, {"a": [True], "b": [True], "c": [False]}, 1)
    assert own == estimate([1, 1, 0])
    assert isinstance(own, Estimate)
