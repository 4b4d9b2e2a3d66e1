"""Memory of a step by lifetime: regions that are alive at the same time lie apart, others may share a place.

Time is counted in phases, between which every thread of a step waits for the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

_ALIGNMENT = 64


@dataclass(eq=False)
class Region:
    """`size` bytes, alive from the phase `first` to `last`, both included; `offset`: where it lies."""

    size: int
    first: float = inf
    last: float = -1
    offset: int = 0

    def touch(self, phase: float) -> None:
        """It is read or written in this phase."""
        self.first, self.last = min(self.first, phase), max(self.last, phase)


def lay_out(regions: Sequence[Region]) -> int:
    """Give every region its offset, the largest first, each at the lowest free place; returns the bytes of
    all."""
    placed: list[Region] = []
    total = 0
    for region in sorted((r for r in regions if r.last >= 0), key=lambda r: -r.size):
        beside = [r for r in placed if r.first <= region.last and region.first <= r.last]
        region.offset = _lowest(region, sorted(beside, key=lambda r: r.offset))
        placed.append(region)
        total = max(total, _end(region))
    return total


def _lowest(region: Region, beside: Sequence[Region]) -> int:
    """The first gap between these, in order of place, that is wide enough."""
    at = 0
    for other in beside:
        if at + region.size <= other.offset:
            break
        at = max(at, _end(other))
    return at


def _end(region: Region) -> int:
    return -(-(region.offset + region.size) // _ALIGNMENT) * _ALIGNMENT
