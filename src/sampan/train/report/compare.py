"""A measurement before and after: how far apart they are, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import NormalDist, fmean, stdev

_Z = NormalDist().inv_cdf(0.975)
_RIGHT = 1e-9  # rewards closer than this are the same


@dataclass(frozen=True)
class Difference:
    """After minus before, and the interval that has it with 95%. `paired`: taken problem by problem, which
    is what makes it narrow (arXiv:2411.00640); `gained`, `lost`: problems that earned more and less then."""

    value: float
    error: float
    paired: bool
    gained: int = 0
    lost: int = 0

    @property
    def low(self) -> float:
        """End of the interval."""
        return self.value - _Z * self.error

    @property
    def high(self) -> float:
        """End of the interval."""
        return self.value + _Z * self.error


def paired(before: Mapping[str, float], after: Mapping[str, float]) -> Difference | None:
    """Of rewards by problem, where both have the same problems, two or more; otherwise None."""
    if before.keys() != after.keys() or len(before) < 2:
        return None
    apart = [after[key] - before[key] for key in before]
    error = stdev(apart) / sqrt(len(apart))
    gained, lost = sum(d > _RIGHT for d in apart), sum(d < -_RIGHT for d in apart)
    return Difference(fmean(apart), error, True, gained, lost)


def unpaired(before: tuple[float, float], after: tuple[float, float]) -> Difference:
    """Of two means with their standard errors, of different problems."""
    return Difference(after[0] - before[0], hypot(before[1], after[1]), False)


def smoothed(values: Sequence[float]) -> list[float]:
    """Centred means over a twentieth of the values."""
    reach = max(1, len(values) // 40)
    return [fmean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]
