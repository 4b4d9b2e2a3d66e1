"""What a run keeps of each answer, and what it was begun with."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from sampan.core.errors import SampanError, StorageError, UsageError, shortened
from sampan.core.rows import RowFile, write_text

_RUN, _SAMPLES = "run.json", "samples.jsonl"
_RIGHT = 0.99  # as training has it, see envs.rewards.correct


@dataclass(frozen=True)
class Sample:
    """An answer to a problem, and what it is worth.

    `task`: its place among the run's tasks. `problem`: its key. `number`: which of the problem's answers.
    `score`: from 0 to 1, None where the check broke, which `error` then says. `normalised`: of multiple
    choice by likelihood, the score by the log-probability a byte. `extracted`: the answer within the text.
    `seconds`: from the question to the answer; `checking`: of its check. `spent`: since the row before it,
    so that all of them together are the run's time. `kept`: an earlier run had computed it.
    """

    task: int
    problem: str
    number: int
    question: str
    expected: str
    text: str
    reasoning: str = ""
    extracted: str | None = None
    score: float | None = None
    normalised: float | None = None
    error: str | None = None
    finish_reason: str = ""
    seed: int | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    checking: float = 0.0
    spent: float = 0.0
    kept: bool = False

    @property
    def place(self) -> tuple[int, str, int]:
        """Which of the run's answers it is."""
        return self.task, self.problem, self.number

    def by(self, metric: str) -> float:
        """What it counts for: "accuracy" 1 where it is right, "score" what the task gave it, of which some
        give shares, and "normalised" see above. Only of one that was checked."""
        assert self.score is not None
        if metric == "accuracy":
            return float(self.score >= _RIGHT)
        return self.score if metric == "score" else float(self.normalised or 0.0)


def metrics_of(samples: Iterable[Sample]) -> tuple[str, ...]:
    """By which these say something."""
    checked = [sample for sample in samples if sample.score is not None]
    shares = any(sample.score not in (0.0, 1.0) for sample in checked)
    ranked = any(sample.normalised is not None for sample in checked)
    return ("accuracy", *(("score",) if shares else ()), *(("normalised",) if ranked else ()))


@dataclass(frozen=True)
class TaskFacts:
    """A task as a run asked it. `key`: a hash of what is asked and how it is checked."""

    name: str
    key: str
    source: str
    licence: str
    version: str
    problems: int
    by: str


@dataclass(frozen=True)
class RunFacts:
    """What a run was begun with. `model`: as it was asked for. `weights`: a hash of its files, and of its
    adapter; of an endpoint its URL. `asked`: everything else that answers depend on. `made_with`: versions
    and machine."""

    model: str
    weights: str
    tasks: tuple[TaskFacts, ...]
    asked: Mapping[str, Any]
    made_with: Mapping[str, Any]
    started: float
    ended: float | None = None

    @property
    def digest(self) -> str:
        """Of all that the answers depend on."""
        tasks = [(task.key, task.problems, task.by) for task in self.tasks]
        said = json.dumps([self.weights, tasks, dict(self.asked)], sort_keys=True)
        return sha256(said.encode()).hexdigest()[:16]


class RunFolder:
    """`run.json`, and `samples.jsonl` with an answer a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._samples = RowFile(path / _SAMPLES)

    @property
    def exists(self) -> bool:
        """Whether a run was begun in it."""
        return (self.path / _RUN).exists()

    def begin(self, facts: RunFacts) -> None:
        """Also writes over what was begun."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / _RUN, json.dumps(asdict(facts), indent=1) + "\n")

    def end(self, facts: RunFacts) -> None:
        """All of it is answered."""
        self.begin(replace(facts, ended=time.time()))

    def facts(self) -> RunFacts:
        """Raises `UsageError` where there is no run, `SampanError` where it cannot be read."""
        path = self.path / _RUN
        if not path.is_file():
            raise UsageError(f"{shortened(self.path)}: has no run of `sampan eval`: no {_RUN}")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            found["tasks"] = tuple(TaskFacts(**task) for task in found["tasks"])
            return RunFacts(**found)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SampanError(
                f"{shortened(path)}: does not say what a run was begun with: {error}"
            ) from error

    def samples(self) -> list[Sample]:
        """All whole lines, in turn. Raises `SampanError` with the number of one that is none."""
        return [self._sample(at, row) for at, row in enumerate(self._samples.rows(), 1)]

    def cut(self) -> list[Sample]:
        """The same, with what a kill left of a line taken away."""
        self._samples.keep(lambda _row: True)
        return self.samples()

    def add(self, sample: Sample) -> None:
        """There to stay when this returns. Raises `StorageError` where it cannot be written; nothing of it is
        in the file then."""
        try:
            self._samples.add(asdict(sample))
        except OSError as error:
            raise StorageError(
                f"{shortened(self._samples.path)}: cannot be written: {error.strerror}; what was answered "
                "before is kept: go on with --resume"
            ) from error

    def _sample(self, at: int, row: Mapping[str, Any]) -> Sample:
        known = {field.name for field in fields(Sample)}
        try:
            return Sample(**{name: value for name, value in row.items() if name in known})
        except TypeError as error:
            raise SampanError(f"{shortened(self._samples.path)}: line {at} is no answer: {error}") from error
