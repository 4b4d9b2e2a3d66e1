"""A run as its folder tells it, done or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sampan.core.errors import UsageError, shortened
from sampan.core.rows import Row
from sampan.train.about import About, read_about
from sampan.train.log import Log
from sampan.train.report.compare import Difference, paired, unpaired
from sampan.train.watch import answers
from sampan.train.watch.answers import Measured


@dataclass(frozen=True)
class Stage:
    """A stage as far as it came. `planned`: its steps by the recipe."""

    place: int
    kind: str
    planned: int
    rows: Sequence[Row]


@dataclass(frozen=True)
class Test:
    """The measurements of a test in turn; the first and the last of them problem by problem."""

    name: str
    rows: Sequence[Row]
    before: Mapping[str, Measured]
    after: Mapping[str, Measured]

    @cached_property
    def difference(self) -> Difference | None:
        """Between the first and the last measurement; None where there is one only."""
        if len(self.rows) < 2:
            return None
        own = ({key: each.reward for key, each in side.items()} for side in (self.before, self.after))
        first, last = self.rows[0], self.rows[-1]
        means = (first["accuracy"], first["error"] or 0.0), (last["accuracy"], last["error"] or 0.0)
        return paired(*own) or unpaired(*means)

    @property
    def share(self) -> bool:
        """Whether its means are shares, such as an accuracy, and not amounts."""
        return all(0 <= row["accuracy"] <= 1 for row in self.rows)

    def mean(self, row: Row) -> str:
        """A measurement with its standard error."""
        error = "" if row["error"] is None else f" ± {self._written(row['error'])}"
        return f"{self._written(row['accuracy'])}{error}"

    def interval(self) -> str:
        """The difference, of shares in points, with the interval that has it with 95%."""
        if self.difference is None:
            return "–"
        found = self.difference
        value, low, high = (
            f"{100 * each:+.1f}" if self.share else f"{each:+.3g}"
            for each in (found.value, found.low, found.high)
        )
        return f"{value} ({low} to {high}){' points' if self.share else ''}"

    def _written(self, value: float) -> str:
        return f"{100 * value:.1f}%" if self.share else f"{value:.3g}"

    def pairs(self, most: int) -> list[tuple[Measured, Measured]]:
        """Answers to the same problems before and after: those first that earn something else now."""
        both = [(self.before[key], self.after[key]) for key in self.before if key in self.after]
        changed = [pair for pair in both if pair[0].reward != pair[1].reward]
        same = [pair for pair in both if pair[0].reward == pair[1].reward]
        return [*changed, *same][:most] if len(self.rows) > 1 else []


@dataclass(frozen=True)
class Run:
    """What it was `about`, and its rows by what they are of."""

    folder: Path
    about: About
    stages: Sequence[Stage]
    tests: Sequence[Test]
    rows: Sequence[Row]

    @property
    def steps(self) -> tuple[int, int]:
        """Done, and by the recipe."""
        return sum(len(stage.rows) for stage in self.stages), sum(stage.planned for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Of all steps that count, without measurements and without what was lost to kills."""
        return sum(sum(row["seconds"].values()) for stage in self.stages for row in stage.rows)


def read_run(folder: Path) -> Run:
    """Raises `UsageError` where there is no run."""
    log = Log(folder)
    rows = log.rows()
    about = read_about(folder)
    if about is None:
        raise UsageError(f"{shortened(folder)}: holds no run: there is no run.json that says how one began")
    stages = [
        Stage(place, kind, steps, [row for row in rows if _of_stage(row, place)])
        for place, (kind, steps) in enumerate(about.stages)
    ]
    names = dict.fromkeys(row["test"] for row in rows if "test" in row)
    tests = [_test(folder, name, [row for row in rows if row.get("test") == name]) for name in names]
    return Run(folder, about, stages, tests, rows)


def _of_stage(row: Row, place: int) -> bool:
    return "number" in row and row["stage"] == place


def _test(folder: Path, name: str, rows: Sequence[Row]) -> Test:
    first, last = rows[0], rows[-1]
    kept = [answers.kept(folder, row["stage"], row["step"], name) for row in (first, last)]
    return Test(name, rows, *kept)
