"""The report of a run: one HTML file with everything in it, to look at, keep and send.

It loads nothing and runs no script; what a model or a recipe wrote is text in it, whatever it looks like.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sampan.core.rows import Row, write_text
from sampan.train.report.plot import Plot
from sampan.train.report.read import Run, Stage, read_run

_FILE = "report.html"
_PAIRS = 6
_ANSWERS = 4

_TOLD = frozenset(("stage", "number", "step", "time", "gap", "groups", "rows"))
_SHARES = frozenset(("cut", "still"))
"""Names of a row that no plot of its own is for, and those that are shares."""


@dataclass(frozen=True)
class Shown:
    """A stage with its plots. `time`: seconds and share of each part."""

    stage: Stage
    plots: Sequence[Plot]
    time: Sequence[tuple[str, float, float]]
    samples: Sequence[Row]


def write_report(folder: Path) -> Path:
    """Of the run in `folder`, done or not: `report.html` there. Raises `UsageError` where there is no run."""
    path = folder / _FILE
    write_text(path, page_of(read_run(folder)))
    return path


def page_of(run: Run) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"share": _share, "duration": duration, "date": _date}
    environment.filters |= {"with": lambda one, other: list(zip(one, other, strict=False))}
    return environment.get_template("page.html").render(
        run=run,
        style=Path(__file__).with_name("page.css").read_text(encoding="utf-8"),
        gap=max((row["gap"] for row in run.rows if "gap" in row), default=None),
        accuracy=_accuracy(run),
        stages=[_shown(stage) for stage in run.stages if stage.rows],
        pairs={test.name: test.pairs(_PAIRS) for test in run.tests},
        most_answers=_ANSWERS,
    )


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def _accuracy(run: Run) -> Plot | None:
    """Of all tests over the steps of the whole run."""
    before = [sum(stage.planned for stage in run.stages[:place]) for place in range(len(run.stages))]
    series = {
        test.name: [(before[row["stage"]] + row["step"], row["accuracy"]) for row in test.rows]
        for test in run.tests
        if len(test.rows) > 1
    }
    errors = {test.name: [row["error"] or 0.0 for row in test.rows] for test in run.tests}
    unit = "%" if all(test.share for test in run.tests) else ""
    return Plot("Accuracy on new problems, ± a standard error", series, unit, errors) if series else None


def _shown(stage: Stage) -> Shown:
    seconds: dict[str, float] = defaultdict(float)
    for row in stage.rows:
        for name, value in row["seconds"].items():
            seconds[name] += value
    whole = sum(seconds.values()) or 1.0
    time = [(name, value, value / whole) for name, value in seconds.items()]
    samples = [row for row in stage.rows if "sample" in row]
    chosen = [samples[place] for place in sorted({0, len(samples) // 2, len(samples) - 1})] if samples else []
    return Shown(stage, [*_plots(stage.rows), _shares(stage.rows, list(seconds))], time, chosen)


def _plots(rows: Sequence[Row]) -> Iterator[Plot]:
    rewards = _series(rows, lambda row: {"reward": row.get("reward"), **_several(row.get("parts", {}))})
    figures = _series(rows, lambda row: row.get("figures", {}))
    if rewards:
        yield Plot("Reward", rewards)
    yield from (Plot(_title(name), {name: points}) for name, points in figures.items() if name == "loss")
    others = _series(rows, lambda row: {name: row[name] for name in row if name not in {"reward", *_TOLD}})
    shares = {name: others.pop(name) for name in list(others) if name in _SHARES}
    if shares:
        yield Plot("Answers that were cut, groups without spread", shares, "%")
    yield from (Plot(_title(name), {name: points}) for name, points in others.items())
    ratios = {name.removeprefix("ratio_"): figures[name] for name in figures if name.startswith("ratio_")}
    clipped = {
        name.removeprefix("clipped_"): figures[name] for name in figures if name.startswith("clipped_")
    }
    if any(y != 1 for points in ratios.values() for _, y in points):
        yield Plot("Ratio of probabilities, new to old", ratios)
    if clipped and any(y for points in clipped.values() for _, y in points):
        yield Plot("Tokens whose ratio was clipped", clipped, "%")
    if any(y for _, y in figures.get("kl", ())):
        yield Plot("Divergence (KL)", {"kl": figures["kl"]})


def _series(rows: Sequence[Row], numbers: Any) -> dict[str, list[tuple[float, float]]]:
    """Points by name of what is a number."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        for name, value in numbers(row).items():
            if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
                found[name].append((row["number"] + 1, float(value)))
    return dict(found)


def _several(parts: Mapping[str, float]) -> Mapping[str, float]:
    """A single part is the reward itself."""
    return parts if len(parts) > 1 else {}


def _shares(rows: Sequence[Row], names: Sequence[str]) -> Plot:
    series: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for row in rows:
        whole = sum(row["seconds"].values()) or 1.0
        for name in names:
            series[name].append((row["number"] + 1, row["seconds"].get(name, 0.0) / whole))
    return Plot("Where time went", series, "%", stacked=True)


_TITLES = {
    "length": "Length of answers in tokens",
    "gradient": "Norm of the gradient",
    "rate": "Learning rate",
    "entropy": "Entropy of sampled tokens in nats",
    "loss": "Loss",
    "tokens": "Tokens of answers",
    "memory_gb": "Memory of the process in GB",
}


def _title(name: str) -> str:
    return _TITLES.get(name, name.capitalize())


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _date(time: float | None) -> str:
    return "" if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")
