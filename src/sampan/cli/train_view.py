"""A training run as it goes on: a live view on a terminal, and otherwise a line a step.

Both are given the rows that the log has. Steps are notes, on stderr; measurements are results, on stdout.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING, Any

from sampan.cli.terminal import is_terminal, printable, say

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

Row = Mapping[str, Any]
Stages = Sequence[tuple[str, int]]
"""What each is and how many steps it has."""

_BLOCKS = " ▁▂▃▄▅▆▇█"
_HEIGHT = 4  # lines of the curve
_RECENT = 10  # steps that the time of the next ones is taken from
_ANSWERS = 4
_COLOURS = ("cyan", "yellow", "blue", "magenta", "green", "white")
_FIGURES = {
    "loss": "loss",
    "length": "length",
    "cut": "cut",
    "still": "still",
    "kl": "KL",
    "gradient": "gradient",
    "rate": "rate",
    "entropy": "entropy",
}


@contextmanager
def shown(stages: Stages, *, plain: bool) -> Iterator[Callable[[Row], None]]:
    """Gives what is to be told each row."""
    if plain or not is_terminal(sys.stderr):
        yield line_a_step
        return
    from rich.console import Console
    from rich.live import Live

    view = View(stages)
    console = Console(stderr=True)
    with Live(view, console=console, refresh_per_second=2, redirect_stdout=False) as live:

        def tell(row: Row) -> None:
            view.add(row)
            if "test" in row:
                _result(row, None if is_terminal(sys.stdout) else sys.stdout, live.console)

        yield tell
        live.refresh()


def line_a_step(row: Row) -> None:
    """The row in words."""
    if "test" in row:
        _result(row, sys.stdout, None)
    elif "number" in row:
        where = f"stage {row['stage']} {row['kind']} step {row['number'] + 1:>4}"
        say(f"{where}  {'  '.join(_words(row))}  {sum(row['seconds'].values()):.1f} s")


def _result(row: Row, stream: Any, console: "Console | None") -> None:
    error = "" if row["error"] is None else f" ± {_share(row['error'], row)}"
    line = printable(
        f"stage {row['stage']} step {row['step']:>4}  {row['test']} {_share(row['accuracy'], row)}{error} of "
        f"{row['problems']} new problems"
    )
    if stream is not None:
        print(line, file=stream, flush=True)
    elif console is not None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _words(row: Row) -> list[str]:
    found = [f"{name} {row[name]:.3f}" for name in ("loss", "kl", "reward", "gradient") if name in row]
    found += [f"{name} {row[name]}" for name in ("kept", "tokens") if name in row]
    if "length" in row:
        found.append(f"length {row['length']:.1f}")
    return found


class View:
    """What is known so far, as rich shows it."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._steps: list[Row] = []
        self._tests: dict[str, list[Row]] = {}
        self._begun = monotonic()

    def add(self, row: Row) -> None:
        """A step or a measurement."""
        if "test" in row:
            self._tests.setdefault(row["test"], []).append(row)
        elif "number" in row:
            self._steps.append(row)

    def __rich_console__(self, _console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """See rich's protocol."""
        yield from self._head(options.max_width)
        if not self._steps:
            return
        row = self._steps[-1]
        yield from self._curve(row, options.max_width)
        yield self._figures(row)
        yield self._time(row, options.max_width)
        yield from self._results()
        yield from self._sample(row)

    def left(self) -> str:
        """How long the stage will take, at the pace of its last steps; nothing before its first."""
        if not self._steps:
            return ""
        place, done = self._steps[-1]["stage"], self._steps[-1]["number"] + 1
        own = [sum(row["seconds"].values()) for row in self._steps if row["stage"] == place]
        seconds = (self._stages[place][1] - done) * median(own[-_RECENT:])
        return f"{_clock(seconds)} left" + (" of this stage" if place + 1 < len(self._stages) else "")

    def _head(self, width: int) -> "Iterator[RenderableType]":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        place, done = (self._steps[-1]["stage"], self._steps[-1]["number"] + 1) if self._steps else (0, 0)
        kind, steps = self._stages[place]
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"stage {place + 1} of {len(self._stages)}: {kind}", style="bold"),
            Text(f"step {done} of {steps}"),
            ProgressBar(total=steps, completed=done, width=max(10, min(40, width - 70))),
            Text(self.left()),
            Text(f"{_clock(monotonic() - self._begun)} so far", style="dim"),
        )
        yield head

    def _curve(self, row: Row, width: int) -> "Iterator[RenderableType]":
        from rich.text import Text

        name = "reward" if "reward" in row and row.get("parts") else "loss" if "loss" in row else "kl"
        values = [step[name] for step in self._steps if step["stage"] == row["stage"] and name in step]
        if not values:
            return
        lines, low, high = curve(values, max(10, width - 24), _HEIGHT)
        notes = {0: f"{high:.3g}", _HEIGHT - 1: f"{low:.3g}"}
        for place, line in enumerate(lines):
            label = f"{name} {values[-1]:.3f}" if place == _HEIGHT // 2 else ""
            yield Text.assemble((f"{label:<14}", "bold"), (line, "cyan"), (f" {notes.get(place, '')}", "dim"))

    def _figures(self, row: Row) -> "Table":
        from rich.table import Table
        from rich.text import Text

        found = {told: f"{row[name]:.3g}" for name, told in _FIGURES.items() if name in row}
        seconds = row["seconds"].get("rollout") or sum(row["seconds"].values())
        if row.get("tokens") and seconds:
            found["tokens/s"] = f"{row['tokens'] / seconds:,.0f}"
        if "gap" in row:
            found["gap"] = f"{max(step.get('gap', 0.0) for step in self._steps)}"
        if row.get("excluded"):
            found["not checked"] = str(len(row["excluded"]))
        table = Table.grid(padding=(0, 3))
        table.add_row(*(Text.assemble((f"{name} ", "dim"), value) for name, value in found.items()))
        return table

    def _time(self, row: Row, width: int) -> "RenderableType":
        from rich.text import Text

        whole = sum(row["seconds"].values()) or 1.0
        line = Text()
        room = max(10, min(40, width - 60))
        for place, value in enumerate(row["seconds"].values()):
            line.append("━" * round(room * value / whole), style=_COLOURS[place % len(_COLOURS)])
        for place, (name, value) in enumerate(row["seconds"].items()):
            line.append(f"  {name} {100 * value / whole:.0f}%", style=_COLOURS[place % len(_COLOURS)])
        return line.append(f"  {whole:.1f} s a step", style="dim")

    def _results(self) -> "Iterator[RenderableType]":
        from rich.text import Text

        for name, rows in self._tests.items():
            shares = " → ".join(_share(row["accuracy"], row) for row in (*rows[:1], *rows[1:][-2:]))
            yield Text.assemble((f"{printable(name)} ", "bold"), shares)

    def _sample(self, row: Row) -> "Iterator[RenderableType]":
        from rich.text import Text

        if not (sample := row.get("sample")):
            return
        yield Text(_one_line(sample["question"]), style="dim", no_wrap=True, overflow="ellipsis")
        rewards = sample["rewards"] or [None] * len(sample["answers"])
        for answer, reward in list(zip(sample["answers"], rewards, strict=False))[:_ANSWERS]:
            earned = "      " if reward is None else f"{reward:>6.3g}"
            style = "green" if reward else "red"
            yield Text.assemble((earned, style), "  ", _one_line(answer), no_wrap=True, overflow="ellipsis")


def curve(values: Sequence[float], width: int, height: int) -> tuple[list[str], float, float]:
    """Lines of a picture of block characters from the top down, with what its bottom and top are. Where
    there are more values than columns, a column is the mean of its own."""
    if len(values) > width:
        edges = [round(place * len(values) / width) for place in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(0.0, *values), max(values)
    scale = (high - low) or 1.0
    eighths = [max(1, round((value - low) / scale * height * 8)) for value in values]
    lines = [
        "".join(_BLOCKS[max(0, min(8, level - 8 * row))] for level in eighths)
        for row in reversed(range(height))
    ]
    return lines, low, high


def _share(value: float, row: Row) -> str:
    """As a share, where the test's mean is one."""
    return f"{100 * value:.1f}%" if 0 <= row["accuracy"] <= 1 else f"{value:.3g}"


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
