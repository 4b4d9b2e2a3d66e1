"""Joules: what the processors say they used (RAPL of Intel and AMD, through Linux's powercap files).

Contract: `Rapl.find` gives a meter, or None where the machine does not report or lets only root read.
`joules` grows; it has to be asked once in a turn of the counters, minutes at full load (`EVERY_S` is enough).
Source: Linux, Documentation/power/powercap/powercap.rst.
"""

import time
from collections.abc import Callable
from pathlib import Path

EVERY_S = 60.0
POWERCAP = Path("/sys/class/powercap")


class _Zone:
    """One counter of microjoules, which starts again at 0 after `turn`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._turn = _number(folder / "max_energy_range_uj") + 1
        self._last = _number(self._file)

    def used(self) -> int:
        """Microjoules since it was last asked; 0 when it cannot be read now."""
        try:
            now = _number(self._file)
        except (OSError, ValueError):
            return 0
        used = now - self._last
        self._last = now
        return used if used >= 0 else used + self._turn


class Rapl:
    """The sum of all packages and their memory, from when it was made."""

    def __init__(self, zones: list[_Zone]) -> None:
        self._zones = zones
        self._microjoules = 0

    @classmethod
    def find(cls, powercap: Path = POWERCAP) -> "Rapl | None":
        """The machine's counters; None where there are none to read."""
        # A package's count has its cores and graphics in it, but not its memory; psys has all of it again.
        zones = []
        for folder in sorted(powercap.glob("intel-rapl:*")):
            try:
                if (folder / "name").read_text().strip().startswith(("package", "dram")):
                    zones.append(_Zone(folder))
            except (OSError, ValueError):
                continue
        return cls(zones) if zones else None

    @property
    def joules(self) -> float:
        """Used so far."""
        self._microjoules += sum(zone.used() for zone in self._zones)
        return self._microjoules / 1e6


class Meter:
    """The machine's busy time and its energy, each moment split evenly among the requests that run in it.

    In a batch every request gets a token a step: there an even split is one by tokens. All the shares
    together are the busy time. `busy_s`, `joules` (None where nobody reports them) are as of the last look.
    """

    def __init__(self, rapl: Rapl | None, now: Callable[[], float] = time.monotonic) -> None:
        self.busy_s = 0.0
        self.running = 0
        self._rapl = rapl
        self._now = now
        self._joules = 0.0
        self._counter = 0.0
        self._share = 0.0  # of a request that ran from the beginning
        self._looked = 0.0

    @property
    def joules(self) -> float | None:
        """Energy of the busy time."""
        return None if self._rapl is None else self._joules

    def joules_in(self, busy_s: float) -> float | None:
        """What so much busy time takes, at the mean power of what was measured; None while there is none."""
        if self._rapl is None or not self.busy_s:
            return None
        return self._joules / self.busy_s * busy_s

    def enter(self) -> float:
        """A request runs; a mark to leave with."""
        self.look(self._now())
        self.running += 1
        return self._share

    def leave(self, mark: float) -> float:
        """It has ended; its share in seconds."""
        self.look(self._now())
        self.running -= 1
        return self._share - mark

    def look(self, now: float) -> None:
        """Bring everything up to `now`, on the monotonic clock."""
        counter = 0.0 if self._rapl is None else self._rapl.joules
        if self.running:
            self.busy_s += now - self._looked
            self._share += (now - self._looked) / self.running
            self._joules += counter - self._counter
        self._looked, self._counter = now, counter

    def look_if_due(self, now: float) -> None:
        """The same, before the counters can have turned round."""
        if now - self._looked > EVERY_S:
            self.look(now)


def _number(file: Path) -> int:
    return int(file.read_text())
