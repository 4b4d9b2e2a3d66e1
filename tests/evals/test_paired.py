"""Differences of two runs of the same problems."""

from collections.abc import Mapping, Sequence
from itertools import product
from math import isfinite, log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from sampan.core.errors import UsageError
from sampan.evals.statistics.paired import (
    Difference,
    difference,
    gains_and_losses_interval,
    no_difference,
    tango_interval,
)
from sampan.evals.statistics.power import mcnemar_detectable, mcnemar_power, mean_detectable

Run = Mapping[str, Sequence[float]]


def runs(both: int, gained: int, lost: int, neither: int, copies: int = 1) -> tuple[Run, Run]:
    pairs = [(1, 1)] * both + [(0, 1)] * gained + [(1, 0)] * lost + [(0, 0)] * neither
    first, second = ({str(place): [own[side]] * copies for place, own in enumerate(pairs)} for side in (0, 1))
    return first, second


@pytest.mark.parametrize("table", [(60, 10, 2, 92), (5, 0, 1, 24), (300, 90, 60, 550), (0, 6, 0, 0)])
def test_p_is_that_of_the_exact_mcnemar_test(table: tuple[int, int, int, int]) -> None:
    both, gained, lost, neither = table
    own = difference(*runs(*table))
    assert own.method == "exact McNemar"
    assert own.p == pytest.approx(mcnemar([[both, lost], [gained, neither]], exact=True).pvalue)
    assert own.value == pytest.approx((gained - lost) / sum(table))
    assert own.n == sum(table)


def test_p_by_hand() -> None:
    assert difference(*runs(20, 10, 2, 30)).p == pytest.approx(2 * (1 + 12 + 66) / 2**12)


def test_tangos_interval_is_that_of_a_published_example() -> None:
    # 1, 1, 7 and 12 of 21 (Bentur et al. 2009), in Fagerland, Lydersen and Laake 2014.
    assert tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=0.0005)


def log_likelihood(losing: float, true: float, table: tuple[int, int, int]) -> float:
    gained, lost, same = table
    parts = ((gained, losing + true), (lost, losing), (same, 1 - 2 * losing - true))
    return sum(count * log(max(chance, 1e-300)) for count, chance in parts if count)


@pytest.mark.parametrize(("gained", "lost", "n"), [(10, 2, 164), (1, 7, 21), (0, 3, 30), (40, 45, 300)])
def test_tangos_limits_are_the_differences_that_the_score_test_just_rejects(
    gained: int, lost: int, n: int
) -> None:
    for true in tango_interval(gained, lost, n):
        least, most = max(0.0, -true), (1 - true) / 2
        likeliest = optimize.minimize_scalar(
            lambda losing, true=true: -log_likelihood(losing, true, (gained, lost, n - gained - lost)),
            bounds=(least, most), method="bounded", options={"xatol": 1e-10},
        ).x  # fmt: skip
        score = (gained - lost - n * true) / sqrt(n * (2 * likeliest + true - true**2))
        assert abs(score) == pytest.approx(stats.norm.ppf(0.975), abs=1e-3)


@pytest.mark.parametrize("n", [1, 6, 30, 1000])
def test_runs_that_are_equal_differ_by_0_with_a_width(n: int) -> None:
    limit = stats.norm.ppf(0.975) ** 2 / (n + stats.norm.ppf(0.975) ** 2)
    for copies in (1, 3):
        own = difference(*runs(n // 2, 0, 0, n - n // 2, copies))
        assert (own.value, own.p, own.changed) == (0.0, 1.0, ((), ()))
        assert (own.low, own.high) == pytest.approx((-limit, limit))


@pytest.mark.parametrize("table", [(0, 1, 0, 0), (0, 0, 1, 0), (0, 5, 0, 0), (0, 0, 2000, 0), (1, 1, 0, 0)])
@pytest.mark.parametrize("copies", [1, 2])
def test_runs_of_nothing_but_changes_have_finite_figures_and_a_width(
    table: tuple[int, int, int, int], copies: int
) -> None:
    own = difference(*runs(*table, copies))
    assert all(map(isfinite, (own.low, own.high, own.p, own.detectable)))
    assert -1 <= own.low < own.high <= 1
    assert 0 <= own.p <= 1


def test_what_was_gained_and_lost_is_named() -> None:
    first = {"a": [0, 0.5], "b": [1.0], "c": [0.1, 0.1, 0.1], "d": [1.0]}
    second = {"d": [0.0], "c": [0.1], "b": [1.0, 1.0], "a": [0.5]}
    assert difference(first, second).changed == (("a",), ("d",))
    assert difference(first, second).value == pytest.approx((0.25 - 1) / 4)


@pytest.mark.parametrize("table", [(9, 3, 1, 9), (10, 7, 1, 10), (0, 6, 0, 2), (0, 2, 2, 0)])
def test_samples_that_say_the_same_have_the_p_of_one_of_them(table: tuple[int, int, int, int]) -> None:
    several = difference(*runs(*table, copies=4))
    assert several.method == "sign flips"
    assert several.p == pytest.approx(difference(*runs(*table)).p)


def test_p_counts_all_ways_to_exchange_the_runs_scores() -> None:
    differences = np.array([0.25, -0.5, 1.0, 0.75, 0.25, 0.0])
    means = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=6)]
    p, _ = no_difference(differences)
    assert p == pytest.approx(np.mean(np.array(means) >= abs(differences.sum()) - 1e-12))


@pytest.mark.parametrize(("n", "method"), [(300, "sign flips"), (1500, "paired t")])
def test_with_many_problems_p_and_interval_are_those_of_the_paired_t(n: int, method: str) -> None:
    draw = np.random.default_rng(0)
    first, second = draw.random((n, 2)), draw.random((n, 2)) + 0.03
    own = difference(
        *({str(place): each.tolist() for place, each in enumerate(run)} for run in (first, second))
    )
    theirs = stats.ttest_rel(second.mean(1), first.mean(1))
    assert own.method == method
    assert own.p == pytest.approx(theirs.pvalue, abs=0.01)
    limits = theirs.confidence_interval()
    assert (own.low, own.high) == pytest.approx(
        (limits.low, limits.high), abs=0.02 * (limits.high - limits.low)
    )


def test_gains_alone_have_an_interval_as_narrow_as_the_paired_t() -> None:
    gains = np.random.default_rng(8).uniform(0.4, 0.6, 30)
    low, high = gains_and_losses_interval(gains)
    theirs = stats.t.interval(0.95, 29, gains.mean(), stats.sem(gains))
    assert (low, high) == pytest.approx(theirs, abs=0.005)


def test_sign_flips_find_no_difference_by_chance_in_one_of_twenty_comparisons_at_most() -> None:
    draw = np.random.default_rng(1)
    steps = draw.integers(-4, 5, (500, 9)) * (draw.random((500, 9)) < 0.7) / 4
    found = np.mean([no_difference(own)[0] < 0.05 for own in steps])
    assert found <= 0.05 + 3 * sqrt(0.05 * 0.95 / 500)


def pairs_of(scores: st.SearchStrategy[float], samples: int) -> st.SearchStrategy[Any]:
    own = st.lists(scores, min_size=1, max_size=samples)
    return st.lists(st.tuples(own, own), min_size=1, max_size=25)


_PAIRS = pairs_of(st.sampled_from([0.0, 1.0]), 1) | pairs_of(st.floats(0, 1), 3)


@settings(deadline=None)
@given(_PAIRS, st.floats(0.5, 0.999))
def test_an_interval_holds_the_difference_and_turns_round_with_the_runs(
    pairs: list[tuple[list[float], list[float]]], level: float
) -> None:
    first, second = ({str(place): own[side] for place, own in enumerate(pairs)} for side in (0, 1))
    own, other = difference(first, second, level), difference(second, first, level)
    assert -1 <= own.low <= own.value <= own.high <= 1
    assert own.low < own.high
    assert 0 < own.p <= 1
    assert 0 < own.detectable <= 1
    assert (other.value, other.low, other.high) == pytest.approx((-own.value, -own.high, -own.low), abs=1e-9)
    assert other.p == pytest.approx(own.p)
    assert other.detectable == pytest.approx(own.detectable)
    assert other.changed == own.changed[::-1]


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(20)))
def test_the_order_of_problems_changes_no_figure(order: list[int]) -> None:
    draw = np.random.default_rng(2)
    first, second = ({str(place): draw.random(2).tolist() for place in range(20)} for _ in range(2))
    own = difference(first, second)
    again = difference({str(place): first[str(place)] for place in order}, second)
    assert (again.p, again.low, again.high) == pytest.approx((own.p, own.low, own.high))


def test_equal_runs_are_compared_equally_each_time() -> None:
    draw = np.random.default_rng(3)
    first, second = ({str(place): draw.random(3).tolist() for place in range(100)} for _ in range(2))
    assert difference(first, second) == difference(first, second)
    assert isinstance(difference(first, second), Difference)


def shown_by_counting(n: int, gaining: float, losing: float) -> float:
    """The chance of p < 0.05 over all tables of n problems."""
    total = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            if gained + lost and stats.binomtest(gained, gained + lost).pvalue < 0.05:
                chances = [gaining, losing, 1 - gaining - losing]
                total += stats.multinomial.pmf([gained, lost, n - gained - lost], n, chances)
    return total


def test_the_power_of_mcnemars_test_is_that_of_all_tables_counted_out() -> None:
    assert mcnemar_power(14, 0.8, 0.6) == pytest.approx(shown_by_counting(14, 0.7, 0.1))


@pytest.mark.parametrize("changed", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("n", [30, 164, 1000])
def test_a_detectable_difference_is_shown_by_four_of_five_comparisons(n: int, changed: float) -> None:
    true = mcnemar_detectable(n, changed)
    total = max(changed, true)
    draw = np.random.default_rng(4)
    gained, lost, _ = draw.multinomial(n, [(total + true) / 2, (total - true) / 2, 1 - total], 4000).T
    # McNemar's p < 0.05, as a table of what either side may at most have.
    most = stats.binom.ppf(0.025, gained + lost, 0.5) - 1
    assert np.mean(np.minimum(gained, lost) <= most) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("n", [30, 164])
def test_a_detectable_difference_of_several_samples_is_shown_by_four_of_five_comparisons(n: int) -> None:
    draw = np.random.default_rng(5)
    chances = draw.beta(1, 1, (2000, n))
    differences = (draw.binomial(4, chances) - draw.binomial(4, chances)) / 4
    true = np.mean([mean_detectable(own) for own in differences[:200]])
    shown = stats.ttest_1samp(differences + true, 0.0, axis=1).pvalue < 0.05
    assert np.mean(shown) == pytest.approx(0.8, abs=0.04)


def test_with_many_problems_what_is_detectable_follows_from_the_variance() -> None:
    own = difference(*runs(4000, 1000, 1000, 4000))
    assert own.detectable == pytest.approx((1.96 + 0.8416) * sqrt(0.2 / 10_000), rel=0.03)


@pytest.mark.parametrize("copies", [1, 2])
def test_without_a_change_six_problems_must_change_to_be_shown(copies: int) -> None:
    own = difference(*runs(20, 0, 0, 20, copies))
    assert stats.binom.sf(5, 40, own.detectable) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("copies", [1, 2])
def test_five_problems_show_no_difference(copies: int) -> None:
    assert difference(*runs(0, 5, 0, 0, copies)).detectable == 1.0


def test_five_problems_show_no_difference_of_several_samples_either() -> None:
    assert mean_detectable(np.array([0.25, 0.5, 0.25, 0.5, 0.25])) == 1.0


def test_an_interval_of_scores_outside_of_0_to_1_is_in_their_unit() -> None:
    draw = np.random.default_rng(6)
    first = draw.normal(0, 50, 400)
    own = difference(
        {str(place): [each] for place, each in enumerate(first)},
        {
            str(place): [each + shift]
            for place, (each, shift) in enumerate(zip(first, draw.normal(4, 20, 400), strict=True))
        },
    )
    assert own.low < 4 < own.high
    assert own.high - own.low == pytest.approx(2 * 1.96 * 20 / sqrt(400), rel=0.1)


def test_the_interval_of_a_comparison_is_the_one_whose_coverage_is_tested() -> None:
    own = difference(*runs(50, 12, 5, 40))
    assert (own.low, own.high) == tango_interval(12, 5, 107)
    draw = np.random.default_rng(7)
    first, second = draw.random((40, 2)), draw.random((40, 2))
    several = difference(
        *({str(place): each.tolist() for place, each in enumerate(run)} for run in (first, second))
    )
    assert (several.low, several.high) == pytest.approx(
        gains_and_losses_interval(second.mean(1) - first.mean(1))
    )


@pytest.mark.parametrize(
    ("a", "b", "level", "said"),
    [
        ({}, {}, 0.95, "no problem"),
        ({"x": [1], "y": [1]}, {"x": [1]}, 0.95, "1 problems are in the first run alone, such as 'y'"),
        ({"x": [1]}, {key: [1] for key in "432xy10"}, 0.95, "6 problems .* second .* '0', '1', '2'$"),
        ({"x": [1]}, {"x": []}, 0.95, "problem 'x': there is none"),
        ({"x": [1]}, {"x": [float("nan")]}, 0.95, "problem 'x': number 0 is nan"),
        ({"x": [1]}, {"x": [1]}, 1.0, "level"),
    ],
)  # fmt: skip
def test_runs_that_cannot_be_compared_are_refused(a: Run, b: Run, level: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        difference(a, b, level)
