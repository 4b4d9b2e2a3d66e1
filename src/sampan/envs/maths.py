"""Answers that are mathematics, numbers or LaTeX, compared by what they mean (math-verify, in a process that
can be ended).
"""

from collections.abc import Sequence
from functools import cache

from sampan.envs.rewards import Extract
from sampan.envs.scoring import Scorer
from sampan.envs.task import Problem, Split, Task, key_of


class Verifier:
    """Raises `UsageError` without the extra `train`. The process behind it starts at the first use."""

    def __init__(self) -> None:
        self._scorer = Scorer("maths", "math_verify")

    def agree(self, right: str, answer: str) -> bool:
        """Whether the answer, or what a text answers in the end (`\\boxed{}` first), means the same. Raises
        `EnvError` where that cannot be told, or not in time."""
        return self._scorer.ask({"right": right, "answer": answer}) == 1.0

    def close(self) -> None:
        """End its process."""
        self._scorer.close()


@cache
def verifier() -> Verifier:
    """One process for all tasks."""
    return Verifier()


class Verified:
    """See `Task`. The problems of another task, whose answers are mathematics."""

    extract: Extract = str  # the verifier finds the answer itself

    def __init__(self, task: Task) -> None:
        self._task = task

    @property
    def name(self) -> str:
        """The task's own, and how it is checked."""
        return f"{self._task.name} by math-verify"

    @property
    def version(self) -> str:
        """The task's own."""
        return key_of(self._task)

    def problems(self, split: Split, seed: int, count: int) -> Sequence[Problem]:
        """The task's own."""
        return self._task.problems(split, seed, count)

    def check(self, problem: Problem, answer: str) -> float:
        """1 or 0. Raises `EnvError` (see `Verifier.agree`)."""
        return float(verifier().agree(problem.answer, answer))
