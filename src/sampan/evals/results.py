"""What a run's answers come to: a score for each task, with its error."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.core.errors import UsageError
from sampan.evals.sample import RunFacts, Sample, metrics_of
from sampan.evals.statistics.attempts import majority_at, pass_at
from sampan.evals.statistics.intervals import Estimate, estimate


@dataclass(frozen=True)
class Result:
    """Of a task by one measure. `metric`: "accuracy" (the share of right answers), "score" (the mean of what
    the task gives, where some answers get a share), "normalised" (of likelihoods by the byte), "pass@K" or
    "majority@K". `n`: problems; `excluded`: answers whose check broke, which count nowhere else; `cut`: those
    that reached their length. `seconds`: what the task took of the run's time. `kept`: answers that an
    earlier run had computed."""

    task: str
    metric: str
    estimate: Estimate
    n: int
    answers: int
    excluded: int
    cut: int
    tokens: int
    prompt_tokens: int
    seconds: float
    kept: int

    def cost(self, prompt: float, completion: float) -> float:
        """In the currency of these prices of a million tokens."""
        return (self.prompt_tokens * prompt + self.tokens * completion) / 1e6

    def told(self) -> dict[str, Any]:
        """As `--json` prints it."""
        own = self.estimate
        return {
            "task": self.task, "metric": self.metric, "n": self.n, "score": own.value, "stderr": own.stderr,
            "low": own.low, "high": own.high, "interval": own.method, "answers": self.answers,
            "excluded": self.excluded, "cut": self.cut, "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens, "seconds": self.seconds, "kept": self.kept,
        }  # fmt: skip


def results(facts: RunFacts, samples: Iterable[Sample], *, attempts: Sequence[int] = ()) -> list[Result]:
    """Of every task that has answers. `attempts`: for which K there is pass@K and majority@K."""
    found: list[Result] = []
    by_task = by_place(samples)
    for place, task in enumerate(facts.tasks):
        own = by_task.get(place, [])
        scored = [sample for sample in own if sample.score is not None]
        if not scored:
            continue
        measures = {metric: _mean(scored, metric) for metric in metrics_of(scored)}
        for k in attempts:
            measures |= _of_attempts(scored, k)
        found += [_result(task.name, metric, each, own) for metric, each in measures.items()]
    return found


def by_place(samples: Iterable[Sample]) -> dict[int, list[Sample]]:
    """By the tasks' places, each in the order of problems and numbers, whenever they were answered."""
    found: dict[int, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.place):
        found.setdefault(sample.task, []).append(sample)
    return found


def by_problem(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Those of one task."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.problem, []).append(sample)
    return found


def _mean(samples: Sequence[Sample], metric: str) -> Estimate:
    return estimate([sample.by(metric) for sample in samples], [sample.problem for sample in samples])


def _of_attempts(samples: Sequence[Sample], k: int) -> Mapping[str, Estimate]:
    """Raises `UsageError` where a problem has fewer answers than `k`."""
    problems = by_problem(samples)
    fewest = min(map(len, problems.values()))
    if fewest < k:
        raise UsageError(f"pass@{k}: a problem has only {fewest} answers that could be checked")
    right = {key: [sample.by("accuracy") == 1.0 for sample in own] for key, own in problems.items()}
    said = {key: [sample.extracted for sample in own] for key, own in problems.items()}
    return {f"pass@{k}": pass_at(right, k), f"majority@{k}": majority_at(said, right, k)}


def _result(task: str, metric: str, each: Estimate, samples: Sequence[Sample]) -> Result:
    return Result(
        task, metric, each,
        n=len({sample.problem for sample in samples if sample.score is not None}),
        answers=len(samples),
        excluded=sum(sample.score is None for sample in samples),
        cut=sum(sample.finish_reason == "length" for sample in samples),
        tokens=sum(sample.tokens for sample in samples),
        prompt_tokens=sum(sample.prompt_tokens for sample in samples),
        seconds=sum(sample.spent for sample in samples),
        kept=sum(sample.kept for sample in samples),
    )  # fmt: skip
