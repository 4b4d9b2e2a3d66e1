"""Two runs of the same problems, problem by problem."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sampan.core.errors import UsageError
from sampan.evals.results import by_place, by_problem
from sampan.evals.sample import RunFolder, Sample, metrics_of
from sampan.evals.statistics.paired import Difference, difference


@dataclass(frozen=True)
class Compared:
    """A task that both runs asked, by one measure: what the second has more. `left_out`: problems that only
    one of them could check."""

    task: str
    metric: str
    difference: Difference
    a: float
    b: float
    left_out: int

    def told(self) -> dict[str, Any]:
        """As `--json` prints it."""
        own = self.difference
        return {
            "task": self.task, "metric": self.metric, "n": own.n, "a": self.a, "b": self.b,
            "difference": own.value, "low": own.low, "high": own.high, "p": own.p,
            "detectable": own.detectable, "test": own.method, "gained": list(own.changed[0]),
            "lost": list(own.changed[1]), "left_out": self.left_out,
        }  # fmt: skip


def compared(a: RunFolder, b: RunFolder) -> list[Compared]:
    """Of every task that both asked in the same way. Raises `UsageError` where there is none, and where one
    has other problems than the other."""
    first, second = _tasks_of(a), _tasks_of(b)
    common = [key for key in first if key in second]
    if not common:
        names = [", ".join(sorted({name for name, *_ in each})) for each in (first, second)]
        raise UsageError(f"the runs have no task in common: {names[0]}; and {names[1]}")
    return [
        _compared(key[0], metric, first[key], second[key])
        for key in common
        for metric in metrics_of(
            sample for run in (first, second) for own in run[key].values() for sample in own
        )
    ]


_Key = tuple[str, str, str]


def _tasks_of(folder: RunFolder) -> dict[_Key, dict[str, list[Sample]]]:
    """Answers by problem, of each task by its name, key, and how it was asked."""
    facts = folder.facts()
    samples = by_place(folder.samples())
    return {
        (task.name, task.key, task.by): by_problem(samples.get(place, ()))
        for place, task in enumerate(facts.tasks)
    }


def _compared(task: str, metric: str, a: dict[str, list[Sample]], b: dict[str, list[Sample]]) -> Compared:
    other = a.keys() ^ b.keys()
    if other:
        raise UsageError(
            f"task {task}: {len(other)} problems are in one run alone, of {len(a.keys() | b.keys())}: "
            "ask the same ones (--limit, --seed), or go on with the run that is not whole (--resume)"
        )
    first, second = _scores(a, metric), _scores(b, metric)
    both = [key for key in first if key in second]
    if not both:
        raise UsageError(f"task {task}: there is no problem that both runs could check")
    own = difference({key: first[key] for key in both}, {key: second[key] for key in both})
    means = [sum(sum(each[key]) / len(each[key]) for key in both) / len(both) for each in (first, second)]
    return Compared(task, metric, own, means[0], means[1], left_out=len(a) - len(both))


def _scores(problems: dict[str, list[Sample]], metric: str) -> dict[str, Sequence[float]]:
    """Without answers whose check broke."""
    found = {
        key: [sample.by(metric) for sample in own if sample.score is not None]
        for key, own in problems.items()
    }
    return {key: values for key, values in found.items() if values}
