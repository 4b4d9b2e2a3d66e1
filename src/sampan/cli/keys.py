"""`sampan keys [create NAME|list|revoke ID|usage]`: who may use the service, how much, and who has."""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sampan.cli.options import AsJson
from sampan.cli.terminal import say
from sampan.core.errors import UsageError, quoted
from sampan.core.settings import Settings
from sampan.server.storage.key_file import FileKeys
from sampan.server.storage.keys import Key, KeyBook, digest, generate

if TYPE_CHECKING:
    from sqlalchemy import Engine

Row = dict[str, object]
_LAST = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_Limit = Annotated[int | None, typer.Option(min=1, max=10**15, help="For create; no limit unless given.")]


@dataclass(frozen=True)
class Place:
    """Where keys are: a file, or the database of this URL, or the one in `SAMPAN_HOME`."""

    home: Path
    file: Path | None = None
    url: str | None = None

    def book(self, *, create: bool = False) -> KeyBook:
        """The keys there. `create`: a file that is not there yet will do."""
        if self.file is not None:
            return FileKeys(self.file, create=create)
        from sampan.server.storage.key_table import DatabaseKeys

        return DatabaseKeys(self.engine())

    def engine(self) -> "Engine":
        """The database."""
        from sampan.server.storage.database import connect, default_url

        return connect(self.url or default_url(self.home))


def command(
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="create NAME, list, revoke ID or usage [ID].")
    ] = "list",
    target: Annotated[str | None, typer.Argument(metavar="NAME|ID", help="See ACTION.")] = None,
    priority: Annotated[
        int, typer.Option(min=-100, max=100, help="For create: lower goes first, always.")
    ] = 0,
    requests_per_minute: _Limit = None,
    tokens_per_minute: _Limit = None,
    tokens_per_day: _Limit = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="For create: a model it may use. Repeatable.")
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="For create: it may load adapters and weights.")
    ] = False,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="For create: 30d, 12h, or a date, 2030-01-31.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="For usage: from 7d ago, or from a date, on.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="F", help="Keys in this file instead of the database.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="sqlite:///FILE or postgresql://…; in SAMPAN_HOME.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """API keys: create NAME, list, revoke ID, and the usage they made.

    A new key is printed once and kept nowhere.
    """
    if file is not None and (database is not None or action == "usage"):
        raise UsageError(
            "--file goes with create, list and revoke, without --database; usage is in a database"
        )
    draft = Key(
        id="new",
        name="new",
        priority=priority,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        tokens_per_day=tokens_per_day,
        models=tuple(models or ()),
        admin=admin,
        expires=None if expires is None else _moment(expires, "--expires", ahead=True),
    )
    start = None if since is None else _moment(since, "--since", ahead=False)
    keys(action, target, Place(Settings.from_env().home, file, database), draft, start, as_json=as_json)


def keys(
    action: str, target: str | None, place: Place, draft: Key, since: int | None, *, as_json: bool
) -> None:
    """Run one action and print its result on stdout; `as_json` prints one object a line."""
    actions: dict[str, Callable[[], None]] = {
        "create": lambda: _create(_given(target, "create NAME"), place.book(create=True), draft, as_json),
        "list": lambda: _list(place.book(), as_json),
        "revoke": lambda: _revoke(_given(target, "revoke ID"), place.book(), as_json),
        "usage": lambda: _usage(target, place.engine(), since, as_json),
    }
    if action not in actions:
        raise UsageError(f"{action!r} is no action of `sampan keys`: create NAME, list, revoke ID or usage")
    actions[action]()


def _given(target: str | None, usage: str) -> str:
    if not target:
        raise UsageError(f"`sampan keys {usage}` needs its {usage.split()[1]}")
    return target


def _create(name: str, book: KeyBook, draft: Key, as_json: bool) -> None:
    key, secret = generate(name, draft)
    book.add(key, digest(secret))
    if as_json:
        _json(_row(key) | {"key": secret})
    else:
        print(secret)
        say(f"sampan: this is the only time that the key of {name} is shown; its id is {key.id}")


def _list(book: KeyBook, as_json: bool) -> None:
    found = book.all()
    if as_json:
        for key in found:
            _json(_row(key))
        return
    columns = (
        "id",
        "name",
        "state",
        "priority",
        "requests/min",
        "tokens/min",
        "tokens/day",
        "models",
        "expires",
    )
    _table(columns, [_cells(key) for key in found])


def _revoke(id: str, book: KeyBook, as_json: bool) -> None:
    key = book.revoke(id)
    if as_json:
        _json(_row(key))
    else:
        print(f"{key.id} ({key.name}) is revoked")


def _usage(id: str | None, engine: "Engine", since: int | None, as_json: bool) -> None:
    from sampan.server.storage.key_table import DatabaseKeys
    from sampan.server.storage.usage_table import Filter, totals

    names = {key.id: key.name for key in DatabaseKeys(engine).all()}
    rows: list[Row] = [
        {"id": key, "name": names.get(key or ""), "model": model, **asdict(counts)}
        for (key, model), counts in totals(engine, Filter(since=since, key=id)).items()
    ]
    if as_json:
        for row in rows:
            _json(row)
        return
    cells = [[_word(value) for value in row.values()] for row in rows]
    _table(
        ("id", "name", "model", "requests", "prompt", "cached", "completion", "reasoning", "seconds"), cells
    )


def _row(key: Key) -> Row:
    """One line of `--json`; times are seconds since the epoch."""
    return asdict(key) | {"state": _state(key)}


def _state(key: Key) -> str:
    if key.revoked is not None:
        return "revoked"
    return "valid" if key.valid(time.time()) else "expired"


def _cells(key: Key) -> list[str]:
    limits = (key.requests_per_minute, key.tokens_per_minute, key.tokens_per_day)
    expires = _date(key.expires) if key.expires is not None else "never"
    return [
        key.id,
        key.name,
        _state(key),
        str(key.priority),
        *map(_word, limits),
        ", ".join(key.models) or "all",
        expires,
    ]


def _date(moment: int) -> str:
    return datetime.fromtimestamp(min(moment, _LAST), UTC).strftime("%Y-%m-%d %H:%M UTC")


def _word(value: object) -> str:
    if value is None:
        return "-"
    return (
        f"{value:,.1f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


def _moment(text: str, option: str, *, ahead: bool) -> int:
    """A time from now, or a date in UTC, as seconds since the epoch."""
    if found := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        seconds = int(found[1]) * _SECONDS[found[2]]
        moment = int(time.time()) + (seconds if ahead else -seconds)
        return min(max(moment, 0), _LAST)
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {quoted(text)}: write 30d, 12h, 90m, 2w, or a date as 2030-01-31"
        ) from None
    return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())


def _json(row: Row) -> None:
    print(json.dumps(row, ensure_ascii=False))


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    words = ("id", "name", "state", "model", "models", "expires")
    for name in columns:
        table.add_column(name, justify="left" if name in words else "right")
    for row in rows:
        table.add_row(*map(Text, row))  # a name is no markup
    # A pipe has no width, and cutting names at 80 columns would spoil them for grep.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
