"""Scores, their errors and intervals."""

from math import isfinite, sqrt

import numpy as np
import pytest
import statsmodels.api
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from sampan.core.errors import UsageError
from sampan.evals.statistics.intervals import estimate

_SCORES = st.lists(st.sampled_from([0.0, 1.0]) | st.floats(0, 1), min_size=1, max_size=40)


def zeros_and_ones(ones: int, n: int) -> list[float]:
    return [1.0] * ones + [0.0] * (n - ones)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("ones", "n"), [(0, 1), (1, 1), (0, 30), (29, 30), (30, 30), (61, 164), (700, 1319)])
def test_right_or_wrong_has_wilsons_interval_as_two_libraries_compute_it(
    ones: int, n: int, level: float
) -> None:
    own = estimate(zeros_and_ones(ones, n), level=level)
    assert own.method == "wilson"
    assert (own.low, own.high) == pytest.approx(
        proportion_confint(ones, n, 1 - level, method="wilson"), abs=1e-12
    )
    theirs = stats.binomtest(ones, n).proportion_ci(level, method="wilson")
    assert (own.low, own.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_one_cluster_a_score_is_no_cluster_at_all() -> None:
    scores = zeros_and_ones(7, 30)
    assert estimate(scores, [f"problem {place}" for place in range(30)]) == estimate(scores)


@pytest.mark.parametrize("seed", range(5))
def test_the_clustered_error_is_that_of_a_cluster_robust_regression(seed: int) -> None:
    draw = np.random.default_rng(seed)
    clusters = draw.integers(0, 25, 100)
    scores = draw.random(25)[clusters] * 0.8 + draw.random(100) * 0.2
    theirs = statsmodels.api.OLS(scores, np.ones(100)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    own = estimate(scores.tolist(), clusters.tolist())
    assert own.value == pytest.approx(theirs.params[0])
    assert own.stderr == pytest.approx(theirs.bse[0])
    assert (own.n, own.clusters) == (100, len(set(clusters.tolist())))


def test_the_clustered_error_by_hand() -> None:
    own = estimate([1, 1, 0, 0, 1, 0], list("aabbcc"))
    # Sums of residuals: 1, -1, 0; times 3 / 2 for three clusters.
    assert own.value == 0.5
    assert own.stderr == pytest.approx(sqrt(2 * 3 / 2) / 6)


def test_without_clusters_the_error_is_the_usual_one_of_a_mean() -> None:
    scores = np.random.default_rng(0).random(50)
    assert estimate(scores.tolist()).stderr == pytest.approx(stats.sem(scores))


def test_repeated_answers_that_say_the_same_narrow_nothing() -> None:
    once = zeros_and_ones(20, 50)
    own = estimate(once * 8, list(range(50)) * 8)
    assert own.stderr == pytest.approx(estimate(once).stderr)
    low, high = estimate(once).low, estimate(once).high
    assert own.low == pytest.approx(low, abs=0.01)
    assert own.high == pytest.approx(high, abs=0.01)


def test_with_many_problems_the_interval_is_that_of_the_clustered_t() -> None:
    draw = np.random.default_rng(1)
    scores = draw.binomial(4, draw.beta(2, 2, 5000)) / 4
    own = estimate(scores.tolist())
    theirs = stats.t.interval(0.95, 4999, scores.mean(), stats.sem(scores))
    assert (own.low, own.high) == pytest.approx(theirs, abs=0.0001)


def test_with_few_problems_the_interval_is_wilsons_of_the_effective_size_by_students_quantile() -> None:
    scores = np.array([0.1, 0.3, 0.2, 0.7, 0.4])
    own, mean = estimate(scores.tolist()), scores.mean()
    size = mean * (1 - mean) / stats.sem(scores) ** 2
    tails = 2 * stats.norm.sf(stats.t.ppf(0.975, 4))
    assert own.method == "clustered wilson"
    assert (own.low, own.high) == pytest.approx(
        proportion_confint(mean * size, size, tails, method="wilson"), abs=1e-9
    )


def test_answers_that_happen_to_balance_tell_no_more_than_independent_ones() -> None:
    own = estimate([0, 0, 1, 1] * 29 + [0, 1, 1, 1], [place // 4 for place in range(120)])
    low, high = proportion_confint(61, 120, method="wilson")
    assert own.low <= low < high <= own.high


@pytest.mark.parametrize("answers", [1, 4])
@pytest.mark.parametrize("score", [0.0, 1.0])
def test_where_all_is_right_or_wrong_the_interval_is_wilsons_of_the_problems(
    score: float, answers: int
) -> None:
    own = estimate([score] * 20 * answers, list(range(20)) * answers)
    theirs = proportion_confint(20 * score, 20, method="wilson")
    assert (own.low, own.high) == pytest.approx(theirs, abs=1e-12)
    assert own.stderr == 0.0


def test_problems_with_equal_means_have_an_interval_with_a_width() -> None:
    own = estimate([0, 1] * 10, [place // 2 for place in range(20)])
    assert own.stderr == 0.0
    assert own.high - own.low > 0.3


@pytest.mark.parametrize("scores", [[0.0], [1.0], [0.3], [0.0, 1.0, 0.5], [-3.0, -3.0, -3.0], [250.0]])
def test_a_single_problem_has_finite_figures_and_a_wide_interval(scores: list[float]) -> None:
    own = estimate(scores, ["only"] * len(scores))
    assert all(map(isfinite, (own.value, own.stderr, own.low, own.high)))
    assert own.stderr > 0
    assert own.high - own.low > 0.7


def test_scores_outside_of_0_to_1_have_an_interval_in_their_own_unit() -> None:
    draw = np.random.default_rng(2)
    scores = draw.normal(30, 10, 400)
    own = estimate(scores.tolist())
    theirs = stats.t.interval(0.95, 399, scores.mean(), stats.sem(scores))
    assert (own.low, own.high) == pytest.approx(theirs, abs=0.02)


@settings(deadline=None)
@given(_SCORES, st.data(), st.floats(0.5, 0.999))
def test_an_interval_holds_its_mean_within_the_range(
    scores: list[float], data: st.DataObject, level: float
) -> None:
    clusters = data.draw(st.lists(st.integers(0, 9), min_size=len(scores), max_size=len(scores)))
    own = estimate(scores, clusters, level)
    assert 0 <= own.low <= own.value <= own.high <= 1
    assert own.low < own.high
    assert own.stderr >= 0
    assert own == estimate(scores, clusters, level)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.5, 0.99))
def test_a_higher_level_has_a_wider_interval(ones: int, n: int, level: float) -> None:
    scores = zeros_and_ones(min(ones, n), n)
    narrow, wide = estimate(scores, level=level), estimate(scores, level=level + 0.005)
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


@pytest.mark.parametrize(
    ("scores", "clusters", "level", "said"),
    [
        ([], None, 0.95, "scores: there is none"),
        ([0.0, float("nan")], None, 0.95, "scores: number 1 is nan"),
        ([float("inf")], None, 0.95, "scores: number 0 is inf"),
        ([0.0, 1.0], ["a"], 0.95, "clusters: there are 1 of 2 scores"),
        ([0.0, 1.0], None, 95, "level: 95 is not between 0 and 1"),
    ],
)  # fmt: skip
def test_what_makes_no_estimate_is_named(
    scores: list[float], clusters: list[str] | None, level: float, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        estimate(scores, clusters, level)
