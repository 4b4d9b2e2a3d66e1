"""The table `usage`: sums per hour, key and model; what a ledger writes and everybody reads.

Contract: a batch counts once however often it is written. Hours are whole; a day begins at midnight UTC.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from sampan.server.storage.database import ledger_batches, storage, usage

HOUR = 3600
DAY = 24 * HOUR
_FORGET_WRITERS = 30 * DAY
_INSERT: dict[str, Callable[..., Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


@dataclass(frozen=True)
class Counts:
    """Sums over requests; add them with `+`. The names are those of the columns.

    `cached_tokens` are part of `prompt_tokens`, `reasoning_tokens` of `completion_tokens`.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.seconds + other.seconds,
        )

    @property
    def tokens(self) -> int:
        """Prompts and answers: what quotas count."""
        return self.prompt_tokens + self.completion_tokens


class Slot(NamedTuple):
    """Which row: its hour (a multiple of 3,600 s since the epoch), key ("" for none) and model."""

    hour: int
    key_id: str
    model: str

    @property
    def day(self) -> int:
        """The beginning of its day."""
        return self.hour - self.hour % DAY


Rows = Mapping[Slot, Counts]
Totals = dict[tuple[str | None, str], Counts]
"""By key (None: no key) and model."""

_SUMS = tuple(item.name for item in fields(Counts))


@dataclass(frozen=True)
class Filter:
    """Which rows: hours that touch `since` … `until` (epoch seconds), one key ("" for none), one model."""

    since: float | None = None
    until: float | None = None
    key: str | None = None
    model: str | None = None

    def takes(self, slot: Slot) -> bool:
        """Whether a row is wanted."""
        return (
            (self.since is None or slot.hour > self.since - HOUR)
            and (self.until is None or slot.hour < self.until)
            and self.key in (None, slot.key_id)
            and self.model in (None, slot.model)
        )

    def on(self, query: Select[Any]) -> Select[Any]:
        """The same in SQL."""
        if self.since is not None:
            query = query.where(usage.c.hour > self.since - HOUR)
        if self.until is not None:
            query = query.where(usage.c.hour < self.until)
        if self.key is not None:
            query = query.where(usage.c.key_id == self.key)
        if self.model is not None:
            query = query.where(usage.c.model == self.model)
        return query


@dataclass(frozen=True)
class Batch:
    """Rows to add. `writer`: whose; `number`: counts that writer's batches, from 1."""

    writer: str
    number: int
    rows: Rows


def write(engine: Engine, batch: Batch | None, now: float) -> dict[str, int]:
    """Add a batch, in one transaction, unless it is in already; the tokens of this day per key.

    Raises `StorageError`; then nothing was added, or all of it.
    """
    day = int(now // DAY) * DAY
    tokens = func.sum(usage.c.prompt_tokens + usage.c.completion_tokens)
    today = select(usage.c.key_id, tokens).where(usage.c.hour >= day, usage.c.hour < day + DAY)
    with storage(engine), engine.begin() as connection:
        if batch is not None and _is_new(connection, batch, int(now)):
            # In the order of the primary key: two writers cannot wait for each other's rows.
            rows = [slot._asdict() | asdict(counts) for slot, counts in sorted(batch.rows.items())]
            connection.execute(_adding(connection), rows)
        found = connection.execute(today.group_by(usage.c.key_id)).all()
    return {key: int(spent) for key, spent in found}


def totals(engine: Engine, wanted: Filter) -> Totals:
    """Sums per key and model. Raises `StorageError`."""
    sums = (func.sum(usage.c[name]) for name in _SUMS)
    query = wanted.on(select(usage.c.key_id, usage.c.model, *sums)).group_by(usage.c.key_id, usage.c.model)
    with storage(engine), engine.connect() as connection:
        found = connection.execute(query.order_by(usage.c.key_id, usage.c.model)).all()
    return {(row[0] or None, row[1]): _counts(row[2:]) for row in found}


def _counts(sums: Sequence[Any]) -> Counts:
    requests, prompt, cached, completion, reasoning = map(int, sums[:5])  # PostgreSQL sums them as numeric
    return Counts(requests, prompt, cached, completion, reasoning, float(sums[5]))


def _is_new(connection: Connection, batch: Batch, now: int) -> bool:
    old = ledger_batches.c.written < now - _FORGET_WRITERS
    insert = _INSERT[connection.dialect.name](ledger_batches)
    newest = insert.on_conflict_do_update(
        index_elements=["writer"],
        set_={"number": insert.excluded.number, "written": insert.excluded.written},
        where=ledger_batches.c.number < insert.excluded.number,
    ).returning(ledger_batches.c.number)
    values = {"writer": batch.writer, "number": batch.number, "written": now}
    is_new = connection.execute(newest, values).first() is not None
    if batch.number == 1:
        connection.execute(delete(ledger_batches).where(old))
    return is_new


def _adding(connection: Connection) -> Any:
    insert = _INSERT[connection.dialect.name](usage)
    return insert.on_conflict_do_update(
        index_elements=["hour", "key_id", "model"],
        set_={name: usage.c[name] + insert.excluded[name] for name in _SUMS},
    )
