"""95% intervals hold the truth in 93% to 97% of simulated runs of 30, 164 and 1,000 problems."""

from functools import cache

import numpy as np
import pytest
from scipy import stats

from sampan.evals.statistics.intervals import estimate
from sampan.evals.statistics.paired import gains_and_losses_interval, tango_interval

_RUNS = 2000
_PROBLEMS = [30, 164, 1000]


def assert_covers(limits: list[tuple[float, float]], truth: np.ndarray | float) -> None:
    low, high = np.array(limits).T
    covered = np.mean((low <= truth) & (truth <= high))
    assert 0.93 <= covered <= 0.97, f"covers {covered:.2%}"


@cache
def of_right_ones(ones: int, n: int) -> tuple[float, float]:
    own = estimate([1.0] * ones + [0.0] * (n - ones))
    return own.low, own.high


@pytest.mark.parametrize("n", _PROBLEMS)
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_an_interval_of_right_and_wrong_holds_the_true_rate(n: int, rate: float) -> None:
    # The rate is drawn too, around this one: at a fixed rate the coverage of any interval of counts jumps.
    draw = np.random.default_rng([n, int(100 * rate)])
    rates = draw.beta(20 * rate, 20 * (1 - rate), _RUNS)
    assert_covers([of_right_ones(int(ones), n) for ones in draw.binomial(n, rates)], rates)


@pytest.mark.parametrize("n", _PROBLEMS)
@pytest.mark.parametrize(("right", "wrong"), [(2, 2), (0.5, 0.5), (1, 4), (0.3, 2.7), (4, 0.5)])
def test_an_interval_of_several_answers_holds_the_population_mean(n: int, right: float, wrong: float) -> None:
    draw = np.random.default_rng([n, int(10 * right)])
    samples = 4
    clusters = [problem for problem in range(n) for _ in range(samples)]
    limits = []
    for _ in range(_RUNS):
        chances = draw.beta(right, wrong, n)
        own = estimate((draw.random((n, samples)) < chances[:, None]).ravel().astype(float), clusters)
        limits.append((own.low, own.high))
    assert_covers(limits, right / (right + wrong))


@pytest.mark.parametrize("n", _PROBLEMS)
def test_an_interval_of_unequally_many_fractional_scores_holds_the_population_mean(n: int) -> None:
    draw = np.random.default_rng(n)
    limits = []
    for _ in range(_RUNS):
        clusters = np.repeat(np.arange(n), draw.integers(1, 4, n))
        scores = draw.beta(1, 2, n)[clusters] * draw.random(clusters.size)
        own = estimate(scores, clusters.tolist())
        limits.append((own.low, own.high))
    assert_covers(limits, 1 / 3 * 1 / 2)


def paired_counts(draw: np.random.Generator, n: int, samples: int, gain: float) -> tuple[np.ndarray, float]:
    """Differences [runs, n] of two models' means, and the true one: problems share their difficulty, and the
    second model is right in a share `gain` of what the first is not."""
    chances = draw.beta(1, 1, (_RUNS, n))
    second = draw.binomial(samples, chances + gain * (1 - chances))
    return (second - draw.binomial(samples, chances)) / samples, gain / 2


@pytest.mark.parametrize("n", _PROBLEMS)
@pytest.mark.parametrize("gain", [0.0, 0.1, 0.4])
def test_an_interval_of_correlated_right_and_wrong_holds_the_true_difference(n: int, gain: float) -> None:
    differences, truth = paired_counts(np.random.default_rng(n), n, 1, gain)
    limits = cache(lambda gained, lost: tango_interval(gained, lost, n))
    counts = zip((differences > 0).sum(1).tolist(), (differences < 0).sum(1).tolist(), strict=True)
    assert_covers([limits(*own) for own in counts], truth)


@pytest.mark.parametrize("n", _PROBLEMS)
def test_an_interval_of_runs_that_seldom_differ_holds_the_true_difference(n: int) -> None:
    # A tenth to four tenths of the problems change, one to four of five of them for the better.
    draw = np.random.default_rng(n)
    changing, better = draw.uniform(0.1, 0.4, _RUNS), draw.uniform(0.2, 0.8, _RUNS)
    chances = np.stack([changing * better, changing * (1 - better), 1 - changing], axis=1)
    limits = cache(lambda gained, lost: tango_interval(gained, lost, n))
    counts = draw.multinomial(n, chances)[:, :2].tolist()
    assert_covers([limits(*own) for own in counts], changing * (2 * better - 1))


@pytest.mark.parametrize("n", _PROBLEMS)
@pytest.mark.parametrize("gain", [0.0, 0.1, 0.4])
def test_an_interval_of_several_correlated_answers_holds_the_true_difference(n: int, gain: float) -> None:
    differences, truth = paired_counts(np.random.default_rng(n + 1), n, 4, gain)
    assert_covers([gains_and_losses_interval(own) for own in differences], truth)


def test_the_interval_of_30_skewed_problems_is_needed_for_t_covers_too_little() -> None:
    draw = np.random.default_rng(8)
    scores = draw.binomial(4, draw.beta(0.3, 2.7, (_RUNS, 30))) / 4
    half = stats.t.ppf(0.975, 29) * stats.sem(scores, axis=1)
    assert np.mean(np.abs(scores.mean(1) - 0.1) <= half) < 0.93
    limits = [(own.low, own.high) for own in map(estimate, scores)]
    assert_covers(limits, 0.1)
