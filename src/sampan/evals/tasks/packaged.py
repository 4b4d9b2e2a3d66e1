"""A benchmark whose problems a package carries."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from sampan.catalog.progress import Progress
from sampan.core.settings import Settings
from sampan.envs.task import Problem
from sampan.evals.benchmark import About, Options
from sampan.evals.data import DataFile, fetched

Row = Mapping[str, Any]


class Packaged(ABC):
    """See `Benchmark`. `line`: what it asks, in one. An answer is right where what is found in it is the
    problem's own."""

    name: ClassVar[str]
    line: ClassVar[str]
    source: ClassVar[str]
    licence: ClassVar[str]
    file: ClassVar[DataFile]
    size: ClassVar[int]
    max_tokens: ClassVar[int]

    def __init__(self, settings: Settings | None = None, progress: Progress | None = None) -> None:
        self._settings, self._progress = settings, progress

    @property
    def about(self) -> About:
        """See `Benchmark`."""
        return About(self.source, self.licence, self.file.version)

    def problems(self, _seed: int, limit: int | None) -> Sequence[Problem]:
        """In the file's order, whatever the seed."""
        return self._problems[:limit]

    def question(self, problem: Problem) -> str:
        """The problem's own."""
        return problem.question

    def check(self, problem: Problem, text: str) -> float:
        """1 or 0."""
        return float(self.answer_in(problem, text) == problem.answer)

    @abstractmethod
    def answer_in(self, problem: Problem, text: str, /) -> str | None:
        """See `Benchmark`."""

    def options(self, _problem: Problem, /) -> Options | None:
        """None, where there is nothing to choose from."""
        return None

    @cached_property
    def _problems(self) -> Sequence[Problem]:
        return self._read()

    @cached_property
    def _path(self) -> Path:
        return fetched(self.file, self._settings or Settings.from_env(), self._progress)

    @abstractmethod
    def _read(self) -> Sequence[Problem]:
        """All problems of the file."""


class OfRows(Packaged, ABC):
    """One whose file has a problem a row: JSON lines, where nothing else is said."""

    def _read(self) -> Sequence[Problem]:
        made = map(self._problem, self._rows(self._path.read_text("utf-8")))
        return once(problem for problem in made if problem is not None)

    def _rows(self, text: str) -> Iterable[Row]:
        return map(json.loads, filter(str.strip, text.split("\n")))

    @abstractmethod
    def _problem(self, row: Row) -> Problem | None:
        """Of a row; None where it asks nothing that can be answered."""


def once(problems: Iterable[Problem]) -> Sequence[Problem]:
    """Each question once, and none that is there with two answers."""
    found: dict[str, Problem] = {}
    torn = set()
    for problem in problems:
        if found.setdefault(problem.key, problem).answer != problem.answer:
            torn.add(problem.key)
    return [problem for key, problem in found.items() if key not in torn]
