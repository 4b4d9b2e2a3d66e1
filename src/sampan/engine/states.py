"""Slots for what sequences carry besides their pages: who writes which, and which are kept to begin from.

A state cannot be cut, so it is kept where a span ends with a page: a snapshot, found by that page as the page
is by its tokens. It costs no copy: the sequence's next rows read it and leave their state in another slot.
A draft does the same, so that what it missed leaves the state before it as it was. Snapshots that nobody
reads go least recently used first.

Of a model without states there are no slots: everything is allowed, and nothing is kept.
"""

from collections import OrderedDict

from sampan.engine.blocks import BlockPool
from sampan.engine.sequence import Carried, Sequence


class StatePool:
    """`count` slots, for the pages of `pool`."""

    def __init__(self, count: int, pool: BlockPool) -> None:
        self.count = count
        self._pool = pool
        self._empty = list(range(count - 1, -1, -1))
        self._holders = [0] * count
        self._found: OrderedDict[int, int] = OrderedDict()
        self._serials: dict[int, int] = {}

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return sum(holders == 0 for holders in self._holders)

    @property
    def full(self) -> bool:
        """Whether no more sequence can start."""
        return self.count > 0 and self.free == 0

    def usable(self, sequence: Sequence, pages: list[int]) -> list[int]:
        """As many of these first pages as there is a state behind; the others are computed again, and a
        state is kept where they end."""
        if not self.count:
            return pages
        size = self._pool.size
        pages = pages[: (sequence.next_scored - 1) // size]
        sequence.state.branch = len(pages) * size
        known = (n for n in range(len(pages), 0, -1) if self._pool.serial(pages[n - 1]) in self._found)
        return pages[: next(known, 0)]

    def start(self, sequence: Sequence) -> None:
        """A slot to write for a sequence that begins behind its first pages; not for a full pool."""
        if not self.count:
            return
        if sequence.pages:
            serial = self._pool.serial(sequence.pages[-1])
            sequence.state.reads = self._found[serial]
            self._found.move_to_end(serial)
            self._holders[sequence.state.reads] += 1
        slot = self._take()
        if slot is None:  # the snapshot's own is the last one
            self._forget(sequence.state.reads)
            slot = sequence.state.reads
        sequence.state.writes = slot
        sequence.state.kept = sequence.computed
        self._look_ahead(sequence)

    def branch(self, sequence: Sequence) -> bool:
        """Whether what the next rows do to the state can be taken back."""
        if self.count and sequence.state.reads == sequence.state.writes:
            slot = self._take()
            if slot is None:
                return False
            sequence.state.writes = slot
        return True

    def advance(self, sequence: Sequence) -> None:
        """A step's rows are computed, and their pages known: keep the state if they end with a page."""
        if not self.count:
            return
        if sequence.state.reads not in (sequence.state.writes, -1):
            self._let_go(sequence.state.reads)
        sequence.state.reads = sequence.state.writes
        size = self._pool.size
        if self._pool.reuse and sequence.computed == sequence.published * size > 0:
            self._keep(sequence, self._pool.serial(sequence.pages[sequence.published - 1]))
        self._look_ahead(sequence)

    def release(self, sequence: Sequence) -> None:
        """A sequence ends or gives way. What was kept of it stays so."""
        for slot in {sequence.state.reads, sequence.state.writes} - {-1}:
            self._let_go(slot)
        sequence.state = Carried()

    def _keep(self, sequence: Sequence, serial: int) -> None:
        """The state that a sequence just wrote, by the serial of the last page before it. Of its earlier ones
        it leaves those whose lengths about double, and where prompts end or part."""
        if serial in self._found:
            self._found.move_to_end(serial)
            return
        wanted = sequence.computed in (sequence.state.branch, self._whole(sequence.prompt_tokens))
        if sequence.computed >= 2 * sequence.state.kept:
            sequence.state.kept = sequence.computed
        elif sequence.state.rolling in self._found:
            self._forget(self._found[sequence.state.rolling])
        slot = self._take()
        if slot is None:
            return
        self._found[serial] = sequence.state.reads
        self._serials[sequence.state.reads] = serial
        sequence.state.writes = slot
        sequence.state.rolling = -1 if wanted else serial

    def _look_ahead(self, sequence: Sequence) -> None:
        """Where its next span must end: where it parts from others, with its last whole page, and then with
        each page."""
        if self._pool.reuse:
            done, following = sequence.computed, self._whole(sequence.computed + 1) + self._pool.size
            ends = (sequence.state.branch, self._whole(len(sequence.tokens)), following)
            sequence.state.ends = next(end for end in ends if end > done)
            sequence.state.size = self._pool.size

    def _whole(self, tokens: int) -> int:
        """Where the last page ends that another such text could take."""
        return (tokens - 1) // self._pool.size * self._pool.size

    def _take(self) -> int | None:
        """A slot for one holder: an empty one, or a snapshot's that nobody reads."""
        if not self._empty:
            idle = next((slot for slot in self._found.values() if self._holders[slot] == 0), None)
            if idle is None:
                return None
            self._forget(idle)
        slot = self._empty.pop()
        self._holders[slot] = 1
        return slot

    def _let_go(self, slot: int) -> None:
        self._holders[slot] -= 1
        if self._holders[slot] == 0 and slot not in self._serials:
            self._empty.append(slot)

    def _forget(self, slot: int) -> None:
        """Nobody finds this snapshot any more."""
        del self._found[self._serials.pop(slot)]
        if self._holders[slot] == 0:
            self._empty.append(slot)
