"""A task of one's own: a file with a class that asks and checks.

class Doubles: def question(self, random): number = random.randrange(100_000) return f"What is twice
{number}?", str(2 * number)

def check(self, problem, answer): return answer == problem.answer

`question` gives a question and its right answer, and, where checking takes more, anything as a third;
`random` is a `random.Random`, the only source of chance that seeds reach. `check` gives a share from 0 to 1,
or whether the answer is right. Methods that may be there: `extract(text)` finds the answer in what a model
said, `solution(problem)` is a worked solution (`worked.py`).
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, Protocol, TypeVar

from sampan.core.errors import EnvError, SampanError, UsageError, quoted, shortened
from sampan.envs.answers import whole
from sampan.envs.drawn import drawn
from sampan.envs.rewards import Extract
from sampan.envs.task import Problem, Split

Made = TypeVar("Made")


class Maker(Protocol):
    """What a task of one's own has."""

    def question(self, random: Random) -> tuple[Any, ...]: ...

    def check(self, problem: Problem, answer: str) -> float: ...


class OwnTask:
    """See `Task`. `name`: with everything that the problems depend on; `version`: of what makes them."""

    def __init__(self, maker: Maker, name: str = "", hint: str = "", version: str | None = None) -> None:
        self.name = f"{name or type(maker).__qualname__}{f' {hint!r}' if hint else ''}"
        for method in ("question", "check"):
            if not callable(getattr(maker, method, None)):
                raise UsageError(f"task {self.name}: its class has no method {method}")
        self.hint, self.version = hint, version
        self.extract: Extract = getattr(maker, "extract", whole)
        if hasattr(maker, "solution"):
            self.solution = maker.solution
        self._maker = maker

    def problems(self, split: Split, seed: int, count: int) -> Sequence[Problem]:
        """See `Task`. Raises `UsageError` where `question` does not do what it is for."""
        return drawn(self.name, self._draw, split, seed, count)

    def check(self, problem: Problem, answer: str) -> float:
        """The class's own. Raises `EnvError` where it breaks, or gives no share."""
        try:
            share = float(self._maker.check(problem, answer))
        except Exception as error:
            raise EnvError(f"task {self.name}: cannot check {quoted(answer)}: {_told(error)}") from error
        if not 0.0 <= share <= 1.0:
            raise EnvError(f"task {self.name}: check gives {share} for {quoted(answer)}: not from 0 to 1")
        return share

    def _draw(self, random: Random, _number: int) -> Problem:
        try:
            made = self._maker.question(random)
        except SampanError:
            raise
        except Exception as error:
            raise UsageError(f"task {self.name}: question: {_told(error)}") from error
        match made:
            case (str(question), str(answer), *data) if len(data) < 2:
                return Problem(_text(self.name, question) + self.hint, answer, *data)
        raise UsageError(
            f"task {self.name}: question gives {quoted(made)}: give two texts, the question and its answer"
        )


def _text(task: str, question: str) -> str:
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"task {task}: question gives {quoted(question)}: {error}") from error
    return question


def task_in(path: Path, **options: object) -> OwnTask:
    """Of the one class in a file that has `question`, made with these options (`hint` is the task's).
    Raises `UsageError` with the file, and the line where there is one."""
    hint = options.pop("hint", "")
    if not isinstance(hint, str):
        raise UsageError(f"task {shortened(path)}: hint is {quoted(hint)}: give a text")
    if not path.is_file():
        raise UsageError(f"task {shortened(path)}: there is no such file")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"task {shortened(path)}: cannot be read: {error}") from error
    version = sha256(text).hexdigest()[:16]
    module = _within(path, lambda: _loaded(path, version))
    classes = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__ and hasattr(each, "question")
    ]
    if len(classes) != 1:
        names = ", ".join(each.__name__ for each in classes) or "none"
        raise UsageError(f"task {shortened(path)}: give one class with a method question; there is {names}")
    maker = _within(path, lambda: classes[0](**options))
    told = " ".join(f"{key}={value!r}" for key, value in sorted(options.items()))
    return OwnTask(maker, f"{path.name} {told}".strip(), hint, version)


def _loaded(path: Path, version: str) -> ModuleType:
    spec = spec_from_file_location(f"task_{version}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"task {shortened(path)}: is no Python file: its name ends with .py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


def _within(path: Path, make: Callable[[], Made]) -> Made:
    try:
        return make()
    except SampanError:
        raise
    except Exception as error:
        raise UsageError(f"task {shortened(path)}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """With the line that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    line = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    return f"{type(error).__name__}: {error}{line}"
