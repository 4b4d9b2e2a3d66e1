"""Answers that are mathematics, numbers or LaTeX, compared by what they mean (math-verify, in a process that
can be ended).
"""

import json
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from sampan.core.errors import EnvError, UsageError, quoted, shortened
from sampan.envs.scoring import Scorer
from sampan.envs.task import Problem, Split, Task, split_of


class Verifier:
    """Needs the extra `train`. The process behind it starts at the first use."""

    def __init__(self) -> None:
        self._scorer = Scorer("maths", "math_verify")

    def agree(self, right: str, answer: str) -> bool:
        """Whether the answer, or what a text answers in the end (`\\boxed{}` first), means the same. Raises
        `EnvError` where that cannot be told, or not in time."""
        return self._scorer.ask({"right": right, "answer": answer}) == 1.0

    def close(self) -> None:
        """End its process."""
        self._scorer.close()


class Verified:
    """See `Task`. The problems of another task, whose answers are mathematics."""

    def __init__(self, task: Task) -> None:
        self._task, self._verifier = task, Verifier()

    @property
    def name(self) -> str:
        """The task's own, and how it is checked."""
        return f"{self._task.name} by math-verify"

    def problems(self, split: Split, seed: int, count: int) -> Sequence[Problem]:
        """The task's own."""
        return self._task.problems(split, seed, count)

    def check(self, problem: Problem, answer: str) -> float:
        """1 or 0. Raises `EnvError` (see `Verifier.agree`)."""
        return float(self._verifier.agree(problem.answer, answer))


class MathsFile:
    """See `Task`. Problems from a file of JSON lines; `question`, `answer`: the names of its fields. `hint`:
    what each question ends with. Raises `UsageError`, with the line."""

    def __init__(
        self,
        path: str | Path,
        hint: str = "\nGive the final answer within \\boxed{}.",
        *,
        question: str = "question",
        answer: str = "answer",
    ) -> None:
        self._path, self._hint, self._fields = Path(path), hint, (question, answer)
        try:
            self._text = self._path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"mathematics {shortened(path)}: cannot be read: {error}") from error
        lines = enumerate(self._text.splitlines(), 1)
        self._problems = [self._problem(line, number) for number, line in lines if line.strip()]

    @property
    def name(self) -> str:
        """With a hash of its text."""
        return f"mathematics {self._path.name} {sha256(self._text.encode()).hexdigest()[:16]}"

    @cached_property
    def _verifier(self) -> Verifier:
        return Verifier()

    def problems(self, split: Split, seed: int, count: int) -> Sequence[Problem]:
        """See `Task`: a fifth of the file is for testing. Raises `EnvError` where it has fewer."""
        found = list({p.key: p for p in self._problems if split_of(p) == split}.values())
        if len(found) < count:
            raise EnvError(f"{self.name}: has no {count} different problems for {split}, but {len(found)}")
        Random(seed).shuffle(found)
        return found[:count]

    def check(self, problem: Problem, answer: str) -> float:
        """1 or 0. Raises `EnvError` (see `Verifier.agree`)."""
        return float(self._verifier.agree(problem.answer, answer))

    def _problem(self, line: str, number: int) -> Problem:
        where = f"mathematics {shortened(self._path)}, line {number}"
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where}: no JSON: {error}") from error
        for field in self._fields:
            if not isinstance(row, dict) or not isinstance(row.get(field), str | int | float):
                raise UsageError(f"{where}: has no {quoted(field)} that is a text or a number")
        question, answer = (str(row[field]) for field in self._fields)
        return Problem(question + self._hint, answer)
