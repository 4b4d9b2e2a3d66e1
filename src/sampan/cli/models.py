"""`sampan models [list|show MODEL|pull MODEL|rm MODEL]`: the catalogue, and what of it is on this disk."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from sampan.catalog import catalog
from sampan.catalog.catalog import Entry
from sampan.catalog.disk import gigabytes
from sampan.catalog.source import FORMS, parse_source
from sampan.catalog.store import CachedModel
from sampan.cli import plan_table
from sampan.cli.options import AsJson
from sampan.cli.progress import TerminalProgress
from sampan.core.errors import UsageError
from sampan.core.memory import fits, total_memory
from sampan.core.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

Row = dict[str, object]


def command(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="list, show, pull or rm.")] = "list",
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="For show, pull and rm.")] = None,
    as_json: AsJson = False,
) -> None:
    """The catalogue: list, show MODEL, pull MODEL or rm MODEL.

    Licence and what it allows, size, what fits here, and where it comes from.
    """
    models(action, model, as_json=as_json, settings=Settings.from_env())


def models(action: str, model: str | None, *, as_json: bool, settings: Settings) -> None:
    """Run one action and print its result on stdout; `as_json` prints one object a line."""
    if action == "list":
        _list(settings, as_json)
        return
    actions: dict[str, Callable[[str, Settings, bool], None]] = {"show": _show, "pull": _pull, "rm": _remove}
    if action not in actions:
        raise UsageError(
            f"{action!r} is no action of `sampan models`: list, show MODEL, pull MODEL or rm MODEL"
        )
    if model is None:
        raise UsageError(f"`sampan models {action}` needs a MODEL: {FORMS}")
    actions[action](model, settings, as_json)


def _list(settings: Settings, as_json: bool) -> None:
    rows = [_row(each, each.source, catalog.cached(each.source, settings)) for each in catalog.entries()]
    known = {entry.source for entry in catalog.entries()}
    rows += [_row(None, each.source, each) for each in catalog.local(settings) if each.source not in known]
    if as_json:
        for row in rows:
            _json(row)
    else:
        _table(rows)


def _show(model: str, settings: Settings, as_json: bool) -> None:
    from sampan.cli import planning

    entry = catalog.find(model)
    if entry is not None or parse_source(model) is not None:
        source = entry.source if entry else model
        found = catalog.cached(source, settings)
        row = _row(entry, source, found)
    else:
        found = _own(model, settings)
        row = _row(None, found.source, found)
    row |= planning.show(model, entry, found, settings)
    if as_json:
        _json(row)
    else:
        _words(row)


def _pull(model: str, settings: Settings, as_json: bool) -> None:
    files = catalog.resolve(model, settings, TerminalProgress())
    if as_json:
        _json({**_describe(model, settings), "path": str(files.path)})
    else:
        print(files.path)


def _remove(model: str, settings: Settings, as_json: bool) -> None:
    row = _describe(model, settings) if as_json else {}
    freed = catalog.remove(model, settings, TerminalProgress())
    if as_json:
        _json({**row, "local": False, "local_bytes": None, "path": None, "freed_bytes": freed})
    else:
        print(f"{model} is removed, {gigabytes(freed)} freed")


def _describe(model: str, settings: Settings) -> Row:
    entry = catalog.find(model)
    source = parse_source(entry.source if entry else model)
    if source is not None:
        return _row(entry, source.spec, catalog.cached(source.spec, settings))
    path = catalog.resolve(model, settings).path
    raise UsageError(f"{path} is your own file, not a model of the catalogue or its cache")


def _own(model: str, settings: Settings) -> CachedModel:
    """A user's own file or folder, as if it were cached."""
    files = catalog.resolve(model, settings)
    parts = files.path.iterdir() if files.path.is_dir() else [files.path]
    size = sum(part.stat().st_size for part in parts if part.is_file())
    return CachedModel(files.source, files.path, files.kind, size)


def _row(entry: Entry | None, source: str, found: CachedModel | None) -> Row:
    """One line of `--json`. What is not known of a model outside the catalogue is null."""
    terms = entry.terms if entry else None
    size = entry.bytes if entry else (found.bytes if found else None)
    return {
        "alias": entry.alias if entry else None,
        "family": entry.family if entry else None,
        "parameters": entry.parameters if entry else None,
        "licence": entry.licence if entry else None,
        "commercial_use": terms.commercial_use if terms else None,
        "source": source or None,
        "bytes": size,
        "local": found is not None,
        "licence_name": terms.name if terms else None,
        "licence_allows": terms.allows if terms else None,
        "licence_asks": terms.asks if terms else None,
        "licence_url": terms.url if terms else None,
        "supported": entry.supported if entry else None,
        "missing": entry.instead if entry else None,
        "sampling": dict(entry.sampling) or None if entry else None,
        "system_prompt": entry.system_prompt if entry else None,
        "fits": fits(size),
        "local_bytes": found.bytes if found else None,
        "path": str(found.path) if found else None,
    }


def _json(row: Row) -> None:
    print(json.dumps(row, ensure_ascii=False))


def _console() -> "Console":
    from rich.console import Console

    # A pipe has no width, and cutting names at 80 columns would spoil them for grep.
    return Console(width=None if sys.stdout.isatty() else 200)


def _table(rows: list[Row]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "parameters", "download", "licence", "commercial", "fits here", "on disk"):
        table.add_column(name, justify="right" if name in ("parameters", "download", "on disk") else "left")
    for row in rows:
        table.add_row(*_cells(row), style=None if row["supported"] is not False else "dim")
    console = _console()
    console.print(table)
    console.print("`sampan models show MODEL` tells what a licence allows and asks.", style="dim")


def _cells(row: Row) -> list[str]:
    runs = _not_run(row) or _yes_no(row["fits"])
    return [
        str(row["alias"] or row["source"]),
        _billions(row["parameters"]),
        _size(row["bytes"]),
        str(row["licence"] or "?"),
        _yes_no(row["commercial_use"]),
        runs,
        _size(row["local_bytes"]) if row["local"] else "-",
    ]


def _words(row: Row) -> None:
    lines = {
        "model": row["alias"] or row["source"],
        "family": ", ".join(filter(None, (str(row["family"] or "?"), _not_run(row)))),
        "parameters": _billions(row["parameters"]),
        "source": row["source"] or "?",
        "download": _size(row["bytes"]),
        "fits here": f"{_yes_no(row['fits'])} (memory {_size(total_memory())}; the weights and a fifth more)",
        "licence": row["licence_name"] or "not in the catalogue: read it at the source",
        "commercial": _yes_no(row["commercial_use"]),
        "allows": row["licence_allows"] or "?",
        "asks": row["licence_asks"] or "?",
        "terms": row["licence_url"] or "?",
        "advised": _advice(row) if row["alias"] else "",
        "sampling": _sampling(row["defaults"]),
        "instead": row["missing"] or "",
        "on disk": f"{row['path']} ({_size(row['local_bytes'])})" if row["local"] else "no",
    }
    console = _console()
    for name, value in ((name, value) for name, value in lines.items() if value):
        console.print(f"{name:<11} {value}", markup=False, highlight=False, soft_wrap=True)
    for line in plan_table.lines(row):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _not_run(row: Row) -> str:
    """Why a model of the catalogue does not run."""
    if row["missing"]:
        return "never published"
    return "not supported yet" if row["supported"] is False else ""


def _advice(row: Row) -> str:
    """What the authors say of sampling and of a system prompt."""
    advised = filter(None, (_sampling(row["sampling"]), "" if row["system_prompt"] else "no system prompt"))
    return ", ".join(advised)


def _sampling(values: object) -> str:
    pairs = values.items() if isinstance(values, dict) else ()
    return ", ".join(f"{name} {value:g}" for name, value in pairs)


def _yes_no(value: object) -> str:
    return "?" if value is None else ("yes" if value else "no")


def _size(value: object) -> str:
    return gigabytes(value) if isinstance(value, int) else "?"


def _billions(value: object) -> str:
    if not isinstance(value, int):
        return "?"
    return f"{value / 1e9:.1f} B" if value >= 1e9 else f"{value / 1e6:.0f} M"
