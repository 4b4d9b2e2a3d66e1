"""Tasks of reasoning-gym (arXiv:2505.24760) by name: problems without end, each checked by the task's own
rules."""

import base64
import json
import pickle
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from importlib import metadata
from typing import Any

from sampan.core.errors import EnvError, UsageError, quoted
from sampan.envs.scorers import EXPRESSIONS, LITERALS
from sampan.envs.scoring import Scorer
from sampan.envs.task import Problem, Split, split_of

_BLOCK = 256
_BARREN = 40  # blocks without a new problem, behind which there are no more


class GymTask:
    """See `Task`. `options`: of the task's generator. `hint`: what each question ends with."""

    def __init__(self, task: str, hint: str = "", **options: Any) -> None:
        self.task, self.hint, self.options = task, hint, options
        self._made(0, 1)  # a wrong option is refused here

    @property
    def name(self) -> str:
        """With its options."""
        options = {**self.options, "hint": self.hint} if self.hint else self.options
        return f"reasoning-gym/{self.task} {json.dumps(options, sort_keys=True)}"

    @property
    def version(self) -> str:
        """Of the package that makes and checks the problems."""
        return metadata.version("reasoning-gym")

    def problems(self, split: Split, seed: int, count: int) -> Sequence[Problem]:
        """See `Task`. Raises `EnvError` where the task has fewer different ones."""
        found: dict[str, Problem] = {}
        barren = block = 0
        while len(found) < count:
            before = len(found)
            # Problem i of a seed is problem 0 of seed + i.
            for problem in self._made((seed << 24) + block * _BLOCK, _BLOCK):
                if split_of(problem) == split:
                    found.setdefault(problem.key, problem)
            block += 1
            barren = 0 if len(found) > before else barren + 1
            if barren == _BARREN:
                raise EnvError(
                    f"{self.name}: has no {count} different problems for {split}: {len(found)} were found"
                )
        return list(found.values())[:count]

    def check(self, problem: Problem, answer: str) -> float:
        """The task's own score. Where it is more than a comparison of texts, it runs in a process that can be
        ended, for some tasks evaluate what they are told. Raises `EnvError` where it fails or takes too
        long."""
        if self._compares:
            return float(self._scorer.score_answer(answer, problem.data))
        entry = base64.b64encode(pickle.dumps(problem.data)).decode()
        request = {"task": self.task, "options": self.options, "entry": entry, "answer": answer}
        try:
            return _scorer().ask(request, alone=self.task in LITERALS | EXPRESSIONS)
        except EnvError as error:
            raise EnvError(f"{self.name}: {error}") from error

    @cached_property
    def _scorer(self) -> Any:
        return self._dataset(0, 1)

    @cached_property
    def _compares(self) -> bool:
        from reasoning_gym.dataset import ProceduralDataset

        return type(self._scorer).score_answer is ProceduralDataset.score_answer

    def _made(self, seed: int, count: int) -> list[Problem]:
        rows: list[Mapping[str, Any]] = list(self._dataset(seed, count))
        return [Problem(row["question"] + self.hint, str(row["answer"]), row) for row in rows]

    def _dataset(self, seed: int, size: int) -> Any:
        try:
            with warnings.catch_warnings():
                # Of its dependencies' sources, where nothing has compiled them yet.
                warnings.simplefilter("ignore", SyntaxWarning)
                import reasoning_gym
        except ImportError as error:
            said = "tasks of reasoning-gym need the extra `eval` or `train` (pip install 'sampan[eval]')"
            raise UsageError(said) from error
        try:
            return reasoning_gym.create_dataset(self.task, seed=seed, size=size, **self.options)
        except (TypeError, ValueError, AssertionError) as error:
            raise UsageError(
                f"reasoning-gym task {quoted(self.task)} with {self.options}: {error}"
            ) from error


@cache
def _scorer() -> Scorer:
    """One process for all tasks."""
    return Scorer("gym", "reasoning_gym")
