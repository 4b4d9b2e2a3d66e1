"""How small a true difference so many problems would have shown."""

from math import sqrt

import numpy as np
from scipy import optimize, stats

from sampan.evals.statistics.intervals import Floats

_SIGNIFICANCE = 0.05
_POWER = 0.8
_LEAST = 6  # problems that change in one direction: fewer are no significant change, 2 / 2**5 > 0.05
_LEFT_OUT = 1e-9


def mcnemar_detectable(n: int, changed: float) -> float:
    """The true difference of two shares of n problems for which the exact McNemar test has p < 0.05 in four
    of five comparisons. `changed`: the share of problems that change, which is never less than the
    difference. 1, the whole range, for less than six problems, which never show anything."""
    if n < _LEAST:
        return 1.0
    return float(
        optimize.brentq(
            lambda true: mcnemar_power(n, max(changed, true), true) - _POWER, _LEFT_OUT, 1.0, xtol=1e-6
        )
    )


def mcnemar_power(n: int, changed: float, true: float) -> float:
    """The chance of p < 0.05 by the exact McNemar test of n problems, of which a share `changed` changes, by
    `true` more to one side than to the other."""
    least, most = stats.binom.ppf([_LEFT_OUT, 1 - _LEFT_OUT], n, changed)
    counts = np.arange(least, most + 1)
    critical = stats.binom.ppf(_SIGNIFICANCE / 2, counts, 0.5) - 1
    up = (1 + true / changed) / 2
    shown = stats.binom.cdf(critical, counts, up) + stats.binom.cdf(critical, counts, 1 - up)
    return float(stats.binom.pmf(counts, n, changed) @ shown)


def mean_detectable(differences: Floats) -> float:
    """Of the mean of `differences` [n]: the sum of Student's quantiles times the standard error (as
    arXiv:2411.00640 with the normal ones), or what six problems need that change by as much as the changed
    ones did, or by 1 where none did; no more than the range, 1 or the largest difference."""
    n, sizes = len(differences), np.abs(differences)
    scale = max(1.0, float(sizes.max()))
    if n < _LEAST:
        return scale
    quantiles = float(stats.t.ppf([1 - _SIGNIFICANCE / 2, _POWER], n - 1).sum())
    changed = sizes[sizes > 0]
    size = float(changed.mean()) if changed.size else 1.0
    error = float(differences.std(ddof=1)) / sqrt(n)
    return min(max(quantiles * error, size * mcnemar_detectable(n, 0.0)), scale)
