"""How many slots a caller may hold: fewer for one that abandons what it asked for.

An answer that nobody stays for costs the others as much as one that is taken, and its caller nothing. So each
that is abandoned halves what its caller may hold, down to a thirty-second of all slots; each that is taken,
and every other second, gives one back (additive increase, multiplicative decrease, as TCP has it).
Without keys all callers are one, which nobody limits.
"""

import time
from collections import Counter
from dataclasses import dataclass

from sampan.server.storage.keys import Clock

_BACK_S = 120.0  # until everything is given back


@dataclass
class _Most:
    """`slots` at the moment `time`."""

    slots: float
    time: float


class Allowance:
    """Counts the slots of each caller, by key. `each`: what any may hold at the most.

    For one thread; the clock is monotonic.
    """

    def __init__(self, slots: int, clock: Clock = time.monotonic, *, each: int | None = None) -> None:
        self._slots = slots
        self._each = each or slots
        self._least = max(1, slots // 32)
        self._clock = clock
        self._held: Counter[str] = Counter()
        self._most: dict[str, _Most] = {}

    def allows(self, key: str | None) -> bool:
        """Whether it may hold one more."""
        if key is None:
            return True
        most = self._each if key not in self._most else min(self._each, int(self._now(key).slots))
        return self._held[key] < most

    def is_owed(self, key: str | None) -> bool:
        """Whether it holds fewer than anybody may."""
        return key is None or self._held[key] < min(self._each, self._least)

    def take(self, key: str | None) -> None:
        """It holds one more."""
        if key is not None:
            self._held[key] += 1

    def give_back(self, key: str | None) -> None:
        """It holds one less."""
        if key is not None:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]

    def abandoned(self, key: str | None) -> None:
        """It left before its answer was whole."""
        if key is not None:
            most = self._now(key)
            most.slots = max(self._least, most.slots / 2)

    def taken(self, key: str | None) -> None:
        """It took a whole answer."""
        if key is not None and key in self._most:
            self._now(key).slots += 1

    def _now(self, key: str) -> _Most:
        now = self._clock()
        most = self._most.setdefault(key, _Most(self._slots, now))
        most.slots = min(self._slots, most.slots + (now - most.time) * self._slots / _BACK_S)
        most.time = now
        return most
