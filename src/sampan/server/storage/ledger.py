"""Usage per hour, key and model: counted in memory at once, written to the database by a thread.

Contract: `record` takes microseconds and never fails. What is recorded is written within `every` seconds,
each batch in one transaction, and counts once even if the answer to its commit was lost. While the database
cannot be written (disk full, locked, gone), counting goes on in memory, for as many rows as `most_rows`, and
writing is tried again at growing intervals. `close` writes what is left.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from sampan.core.errors import StorageError
from sampan.server.storage.usage_table import DAY, HOUR, Batch, Counts, Filter, Slot, Totals, totals, write

_LONGEST_WAIT = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One request that was served. `time`: seconds since the epoch. `key`: a key's id, None without keys.

    `cached_tokens` are part of `prompt_tokens`, `reasoning_tokens` of `completion_tokens`.
    """

    time: float
    key: str | None
    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 1
    seconds: float = 0.0

    def counts(self) -> Counts:
        """Its numbers."""
        return Counts(
            requests=self.requests,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            reasoning_tokens=self.reasoning_tokens,
            seconds=self.seconds,
        )

    def slot(self) -> Slot:
        """Where they are added."""
        return Slot(int(self.time // HOUR) * HOUR, _storable(self.key or ""), _storable(self.model))


@dataclass(frozen=True)
class Health:
    """Numbers for metrics. `unsaved_rows` are in memory only; `lost` requests found no room there."""

    healthy: bool
    unsaved_rows: int
    lost: int
    failures: int
    error: str | None


class Ledger:
    """The ledger of one process. `every`: seconds between writes. `now`: the wall clock, for the day."""

    def __init__(
        self,
        engine: Engine,
        *,
        every: float = 1.0,
        most_rows: int = 100_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._every = every
        self._most_rows = most_rows
        self._now = now
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._pending: dict[Slot, Counts] = {}
        self._batch: Batch | None = None  # stays as it is until it is known to be in
        self._number = 0
        self._writer = uuid.uuid4().hex
        self._day = 0
        self._today: dict[str, int] = {}
        self._lost = self._failures = self._in_a_row = 0
        self._error: str | None = None
        self._wanted = self._served = 0
        self._closing = False
        self._attempt()
        self._thread = threading.Thread(target=self._run, name="sampan-ledger", daemon=True)
        self._thread.start()

    def record(self, entry: Entry) -> None:
        """Count one request."""
        slot, counts = entry.slot(), entry.counts()
        with self._changed:
            if slot not in self._pending and len(self._pending) >= self._most_rows:
                self._lost += entry.requests
                return
            self._pending[slot] = self._pending.get(slot, Counts()) + counts
            self._begin_day(self._now())
            self._count_today(slot, counts)
            if len(self._pending) == 1:
                self._changed.notify_all()

    def spent_today(self, key: str) -> int:
        """Tokens of a key since midnight UTC, from memory.

        What other processes have spent is known as of this one's last write.
        """
        with self._changed:
            self._begin_day(self._now())
            return self._today.get(key, 0)

    def totals(self, wanted: Filter | None = None) -> Totals:
        """Sums per key and model, what is not written yet included. Raises `StorageError`."""
        wanted = wanted or Filter()
        with self._writing:  # no batch is on its way
            with self._changed:
                unsaved = [*(self._batch.rows.items() if self._batch else ()), *self._pending.items()]
            found = totals(self._engine, wanted)
        for slot, counts in unsaved:
            if wanted.takes(slot):
                who = (slot.key_id or None, slot.model)
                found[who] = found.get(who, Counts()) + counts
        return found

    @property
    def health(self) -> Health:
        """How writing goes."""
        with self._changed:
            unsaved = len(self._pending) + (len(self._batch.rows) if self._batch else 0)
            return Health(self._error is None, unsaved, self._lost, self._failures, self._error)

    def flush(self, timeout: float = 10.0) -> bool:
        """Write now; True when everything recorded so far is in the database."""
        with self._changed:
            self._wanted += 1
            mine = self._wanted
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._served >= mine or not self._thread.is_alive(), timeout)
            return self._served >= mine and self._error is None

    def close(self, timeout: float = 10.0) -> bool:
        """Write what is left and end the thread; True when everything is in the database."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        unsaved = self.health.unsaved_rows
        if unsaved:
            _log.error("the ledger ends with %d rows of usage that could not be written", unsaved)
        return not unsaved

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(self._has_work)
                self._changed.wait_for(self._is_urgent, self._pause())
                closing, wanted = self._closing, self._wanted
            while (self._next_batch() or self._in_a_row) and self._attempt():
                pass
            with self._changed:
                self._served = wanted
                self._changed.notify_all()

    def _has_work(self) -> bool:
        return bool(self._pending or self._batch or self._error) or self._is_urgent()

    def _is_urgent(self) -> bool:
        return self._closing or self._wanted > self._served

    def _pause(self) -> float:
        growing: float = self._every * 2**self._in_a_row
        return max(self._every, min(growing, _LONGEST_WAIT))

    def _next_batch(self) -> bool:
        """Whether there is something to write: what failed before, or what has come since."""
        with self._writing, self._changed:
            if self._batch is None and self._pending:
                self._number += 1
                self._batch = Batch(self._writer, self._number, self._pending)
                self._pending = {}
            return self._batch is not None

    def _attempt(self) -> bool:
        with self._writing:
            try:
                now = self._now()
                today = write(self._engine, self._batch, now)
            except Exception as error:  # whatever it is: the thread lives on, and tries again
                self._failed(error)
                return False
            self._succeeded(now, today)
            return True

    def _succeeded(self, now: float, today: dict[str, int]) -> None:
        with self._changed:
            if self._error is not None:
                _log.warning("the ledger can be written again")
            self._error, self._in_a_row, self._batch = None, 0, None
            self._begin_day(now)
            self._today = today
            for slot, counts in self._pending.items():
                self._count_today(slot, counts)

    def _failed(self, error: Exception) -> None:
        said = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
        with self._changed:
            if self._error is None:
                _log.error("the ledger cannot be written, usage is kept in memory: %s", said)
            self._error = said
            self._failures += 1
            self._in_a_row = min(self._in_a_row + 1, 10)

    def _count_today(self, slot: Slot, counts: Counts) -> None:
        if slot.day == self._day:
            self._today[slot.key_id] = self._today.get(slot.key_id, 0) + counts.tokens

    def _begin_day(self, now: float) -> None:
        day = int(now // DAY) * DAY
        if day != self._day:
            self._day, self._today = day, {}


def _storable(text: str) -> str:
    # PostgreSQL takes no NUL, and no driver a lone surrogate: either would hold up a whole batch.
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
