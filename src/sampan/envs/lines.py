"""Tasks of a file with a problem a line (JSONL)."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from sampan.core.errors import EnvError, UsageError, quoted, shortened
from sampan.envs.answers import chosen, last_number, whole
from sampan.envs.checks import CHECKS, number
from sampan.envs.maths import verifier
from sampan.envs.rewards import Extract
from sampan.envs.task import Problem, Split, split_of

_LABEL, _MATHS = "label", "maths"
_NAMES = (*CHECKS, _LABEL, _MATHS)


class Lines:
    """See `Task`. A line is a JSON object with `question` and `answer`, or with `messages`: one of the user
    and, where there is no `answer`, one of the assistant behind it. How answers are compared: by the line's
    `checker`, otherwise by this one: of `CHECKS`, "label" (the last of the words that are answers in the
    file) or "maths" (what it means, by math-verify). All other fields go with the problem as its `data`.
    Raises `UsageError` with file and line."""

    def __init__(self, path: Path, checker: str = "text", hint: str = "") -> None:
        if checker not in _NAMES:
            raise UsageError(f"{shortened(path)}: checker is {quoted(checker)}: one of {', '.join(_NAMES)}")
        if not path.is_file():
            raise UsageError(f"{shortened(path)}: there is no such file")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{shortened(path)}: cannot be read: {error}") from error
        self.checker, self.hint = checker, hint
        self.version = sha256(content).hexdigest()[:16]
        self.name = f"{path.name} checker={checker}{f' {hint!r}' if hint else ''}"
        self.extract: Extract = str  # a line's checker finds the answer itself
        self._problems, self._checkers = _read(path, content, checker, hint)
        self._labels = chosen(*dict.fromkeys(each.answer for each in self._problems.values()))

    @property
    def all_problems(self) -> Sequence[Problem]:
        """Of both splits, in the file's order: for measuring alone."""
        return list(self._problems.values())

    def problems(self, split: Split, seed: int, count: int) -> Sequence[Problem]:
        """See `Task`. In an order of the seed. Raises `EnvError` where the file has not so many."""
        found = [problem for problem in self.all_problems if split_of(problem) == split]
        if len(found) < count:
            raise EnvError(f"{self.name}: has no {count} different problems for {split}: {len(found)}")
        Random(seed).shuffle(found)
        return found[:count]

    def check(self, problem: Problem, answer: str) -> float:
        """As the line, or the file, says. Raises `EnvError` (see `Verifier.agree`)."""
        name = self._checker(problem)
        if name == _LABEL:
            return float(self._labels(answer) == problem.answer)
        if name == _MATHS:
            return float(verifier().agree(problem.answer, answer))
        return float(CHECKS[name](answer, problem.answer))

    def compared(self, problem: Problem, answer: str) -> str | None:
        """What of an answer its check compares: a number, a label, otherwise all of it."""
        name = self._checker(problem)
        return (self._labels if name == _LABEL else last_number if name == "number" else whole)(answer)

    def _checker(self, problem: Problem) -> str:
        return self._checkers.get(problem.key, self.checker)


def _read(
    path: Path, content: bytes, checker: str, hint: str
) -> tuple[Mapping[str, Problem], Mapping[str, str]]:
    problems: dict[str, Problem] = {}
    checkers: dict[str, str] = {}
    lines: dict[str, int] = {}
    for at, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            problem, name = _problem(json.loads(line), hint)
            name = checker if name is None else name
            _refuse_check(problem, name)
        except (ValueError, RecursionError) as error:  # what is no JSON, no UTF-8, or no problem
            raise UsageError(f"{shortened(path)}, line {at}: {error}") from error
        before = problems.setdefault(problem.key, problem)
        if (before.answer, checkers.setdefault(problem.key, name)) != (problem.answer, name):
            asked = f"asks what line {lines[problem.key]} asks, with another answer or checker"
            raise UsageError(f"{shortened(path)}, line {at}: {asked}")
        lines.setdefault(problem.key, at)
    if not problems:
        raise UsageError(f"{shortened(path)}: has no problem")
    return problems, checkers


def _problem(row: Any, hint: str) -> tuple[Problem, str | None]:
    """Of a line, with its checker where it names one."""
    if not isinstance(row, dict):
        raise ValueError('is no object: give {"question": …, "answer": …}')
    rest = dict(row)
    answer = rest.pop("answer", None)
    if ("question" in row) == ("messages" in row):
        raise ValueError("give question or messages, one of both")
    if "messages" in row:
        question, said = _turns(rest.pop("messages"))
        answer = said if answer is None else answer
    else:
        question = rest.pop("question")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = json.dumps(answer)
    for field, value in (("question", question), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{field} is {quoted(value)}: give a text")
        value.encode()  # half of a surrogate pair is no text
    return Problem(question + hint, answer, rest), rest.pop("checker", None)


def _turns(messages: Any) -> tuple[Any, Any]:
    """The question, and the answer where there is one."""
    try:
        turns = [(message["role"], message["content"]) for message in messages]
    except (TypeError, KeyError):
        raise ValueError("messages is no list of objects with role and content") from None
    match turns:
        case [("user", question)]:
            return question, None
        case [("user", question), ("assistant", answer)]:
            return question, answer
    roles = ", ".join(str(role) for role, _ in turns) or "none"
    raise ValueError(f"messages have the roles {roles}: give one of user, and one of assistant or none")


def _refuse_check(problem: Problem, name: Any) -> None:
    if name not in _NAMES:
        raise ValueError(f"checker is {quoted(name)}: one of {', '.join(_NAMES)}")
    if name == "number" and not number(problem.answer, problem.answer):
        raise ValueError(f"answer is {quoted(problem.answer)}: no number, which the checker compares")
