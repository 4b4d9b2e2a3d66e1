"""Two runs of the same problems, compared problem by problem (arXiv:2411.00640)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import optimize, stats

from sampan.core.errors import UsageError, quoted
from sampan.evals.statistics.intervals import (
    Floats,
    checked_level,
    effective_size,
    finite,
    two_sided,
    wilson,
)
from sampan.evals.statistics.power import mcnemar_detectable, mean_detectable

_ROUNDING = 1e-12
_DRAWS = 9999
_LARGE = 1000  # changed problems from which on t and sign flips tell the same


@dataclass(frozen=True)
class Difference:
    """What the second run has more, in the scores' unit, over `n` problems. `low`, `high`: its interval,
    which holds it. `p`: of no difference at all, by the test that `method` names ("exact McNemar", "sign
    flips" or "paired t"). These two do not always agree: the exact p, which is the more cautious, may be
    above 0.05 where the interval just leaves 0 out. `detectable`: see `difference`. `changed`: problems
    gained, and lost."""

    value: float
    low: float
    high: float
    p: float
    method: str
    n: int
    detectable: float
    changed: tuple[tuple[str, ...], tuple[str, ...]]


def difference(
    a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]], level: float = 0.95
) -> Difference:
    """b minus a, as the mean over the problems of the differences of their mean scores; the runs may have
    other numbers of samples.

    One 0/1 score a problem: the exact McNemar test and Tango's interval. Otherwise sign flips (t where more
    than a thousand problems changed) and the interval of gains and losses. The two tests are one: of 0/1
    scores, flipping signs at random is McNemar's.

    `detectable` is the smallest true difference that so many problems would show in four of five runs, at
    p < 0.05: of 0/1 scores, McNemar's own, where as many problems change as did, or more where a difference
    takes more; otherwise from the variance of the differences. Never less than what six problems need that
    all change in one direction by as much as those did, or by 1 where none did: fewer show nothing. Of less
    than six problems it is the whole range, 1.

    Raises `UsageError` for no problem, one without scores or with one that is not finite, problems that only
    one run has, and a level outside of 0..1."""
    checked_level(level)
    _same_problems(a, b)
    first, second = ({key: finite(run[key], f"problem {quoted(key)}") for key in a} for run in (a, b))
    differences = np.array([second[key].mean() - own.mean() for key, own in first.items()])
    n, scale = len(differences), max(1.0, float(np.abs(differences).max()))
    differences[np.abs(differences) < _ROUNDING * scale] = 0.0
    gained, lost = (
        [key for key, own in zip(a, side, strict=True) if own > 0] for side in (differences, -differences)
    )
    if all(own.size == 1 and own[0] in (0, 1) for run in (first, second) for own in run.values()):
        low, high = tango_interval(len(gained), len(lost), n, level)
        p, method = mcnemar(len(gained), len(lost)), "exact McNemar"
        detectable = mcnemar_detectable(n, (len(gained) + len(lost)) / n)
    else:
        low, high = gains_and_losses_interval(differences, level)
        p, method = no_difference(differences)
        detectable = mean_detectable(differences)
    value = float(differences.mean())
    return Difference(
        value, min(low, value), max(high, value), p, method, n, detectable, (tuple(gained), tuple(lost))
    )


def _same_problems(a: Mapping[str, object], b: Mapping[str, object]) -> None:
    if not a and not b:
        raise UsageError("there is no problem to compare")
    for name, only in (("first", a.keys() - b.keys()), ("second", b.keys() - a.keys())):
        if only:
            some = ", ".join(quoted(key) for key in sorted(only)[:3])
            raise UsageError(f"{len(only)} problems are in the {name} run alone, such as {some}")


def mcnemar(gained: int, lost: int) -> float:
    """The exact p (McNemar 1947) of so many problems gained and lost by chance, 0/1 scores; 1 where none
    was."""
    changed = gained + lost
    return float(stats.binomtest(gained, changed).pvalue) if changed else 1.0


def tango_interval(gained: int, lost: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Of the difference of two shares of the same n problems: the differences that the score test does not
    reject (Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design"). Where nothing changed it is as wide as Wilson's around 0. Newcombe's
    square-and-add interval is too narrow there where about half of all are right, for it also looks at the
    problems that did not change."""
    quantile = two_sided(level)
    return _tango_low(gained, lost, n, quantile), -_tango_low(lost, gained, n, quantile)


def _tango_low(gained: int, lost: int, n: int, quantile: float) -> float:
    observed = (gained - lost) / n
    if observed == -1:
        return -1.0

    def excess(true: float) -> float:
        """By how much the score exceeds the quantile's, times its standard deviation."""
        linear = (2 * n - gained + lost) * true - gained - lost
        losing = (sqrt(max(linear**2 + 8 * n * lost * true * (1 - true), 0.0)) - linear) / (4 * n)
        variance = n * (2 * losing + true * (1 - true))
        return gained - lost - n * true - quantile * sqrt(max(variance, 0.0))

    # At -1 nothing varies; at 1 neither, so that the root which is no limit is left out.
    return float(optimize.brentq(excess, -1.0, observed - _ROUNDING))


def gains_and_losses_interval(differences: Floats, level: float = 0.95) -> tuple[float, float]:
    """Of the mean of `differences` [n]. The mean gain and the mean loss, between 0 and 1 each, have Wilson's
    interval of their effective number of problems, and these are put together as correlated estimates (Zou
    and Donner 2008, "Construction of confidence limits about effect measures: a general approach"). With many
    problems that is the interval of the paired t. Of 30 problems most of which do not change, t covered as
    little as 86%, the bootstrap (BCa) 77%, this 92%. No interval covers a large change so rare that it was
    not seen, among many small ones."""
    n, scale = len(differences), max(1.0, float(np.abs(differences).max()))
    gains, losses = (np.maximum(each, 0.0) / scale for each in (differences, -differences))
    gain, loss = float(gains.mean()), float(losses.mean())
    errors = [_error(each) for each in (gains, losses)]
    quantile = two_sided(level, n - 1 if any(errors) else 0)
    sizes = [effective_size(mean, error, n) for mean, error in zip((gain, loss), errors, strict=True)]
    if 0.0 in errors:  # what never varied is known as well as the other, at best
        sizes = [max(sizes)] * 2
    # No problem both gains and loses, so that their products' mean is 0.
    correlation = -gain * loss / (n - 1) / (errors[0] * errors[1]) if all(errors) else 0.0
    low_gain, high_gain = wilson(gain, sizes[0], quantile)
    low_loss, high_loss = wilson(loss, sizes[1], quantile)
    below = _together(gain - low_gain, high_loss - loss, correlation)
    above = _together(high_gain - gain, loss - low_loss, correlation)
    return scale * (gain - loss - below), scale * (gain - loss + above)


def _together(one: float, other: float, correlation: float) -> float:
    """The distance of a difference's limit from it, by those of its two parts."""
    return sqrt(max(one**2 + other**2 - 2 * correlation * one * other, 0.0))


def _error(values: Floats) -> float:
    error = float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else 0.0
    return error if error > _ROUNDING else 0.0


def no_difference(differences: Floats) -> tuple[float, str]:
    """p of no difference, and by which test: as if each problem's two scores had been exchanged by chance.
    All ways are taken where up to 13 differences [n] are not 0, otherwise 9,999 that are the same each
    time."""
    changed = differences[differences != 0]
    if changed.size < 2:
        return 1.0, "sign flips"
    if changed.size > _LARGE and np.ptp(differences) > _ROUNDING:
        return float(stats.ttest_1samp(differences, 0.0).pvalue), "paired t"
    # In one order and direction, so that neither the problems' nor the runs' order matters.
    changed = np.sort(changed if changed.sum() > 0 else -changed)
    tested = stats.permutation_test(
        (changed,), np.mean, permutation_type="samples", n_resamples=_DRAWS, batch=1000, vectorized=True,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(tested.pvalue), "sign flips"
