"""A task: questions, and what an answer to one is worth. One task serves training and measuring alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Protocol


@dataclass(frozen=True)
class Problem:
    """A question with its right answer, as the task writes it. `data`: what else checking takes."""

    question: str
    answer: str
    data: object = None

    @property
    def key(self) -> str:
        """The same for the same question, whoever asks."""
        return sha256(self.question.encode()).hexdigest()[:16]


Split = Literal["train", "test"]
_SPLITS: tuple[Split, ...] = ("train", "test")
_FIRST = 8


class Task(Protocol):
    """`name`: with everything that its problems depend on."""

    @property
    def name(self) -> str: ...

    def problems(self, split: Split, seed: int, count: int) -> Sequence[Problem]:
        """So many different problems. None of "test" ever is one of "train", whatever the seeds: a
        problem's split is a property of its question (`split_of`)."""

    def check(self, problem: Problem, answer: str) -> float:
        """From 0 to 1. Raises `EnvError` where it cannot tell: that is no 0."""


def split_of(problem: Problem) -> Split:
    """By the question alone: one in five is for testing."""
    return "test" if int(problem.key, 16) % 5 == 0 else "train"


def told_of(task: Task) -> str:
    """A task's name with its key: nothing else has both."""
    return f"{task.name} ({key_of(task)})"


def key_of(task: Task) -> str:
    """A hash of what a task asks and how: of its name and of its `version`, where it says what makes and
    checks its problems (a package's version, a file's hash); otherwise of its first problems."""
    version = getattr(task, "version", None)
    if version is None:
        first = [problem for split in _SPLITS for problem in task.problems(split, 0, _FIRST)]
        version = "\0".join(f"{problem.question}\0{problem.answer}" for problem in first)
    return sha256(f"{task.name}\0{version}".encode()).hexdigest()[:16]
