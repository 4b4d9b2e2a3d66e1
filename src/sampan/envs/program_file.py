"""Programs from a file of JSON lines, as HumanEval writes them (arXiv:2107.03374)."""

import ast
import gzip
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from sampan.core.errors import EnvError, UsageError, quoted, shortened
from sampan.envs.answers import code
from sampan.envs.rewards import Extract
from sampan.envs.sandbox.sandbox import Sandbox
from sampan.envs.sandbox.verdict import Verdict, check_tests
from sampan.envs.task import Problem, Split, split_of

_FIELDS = ("prompt", "entry_point", "test")


@dataclass(frozen=True)
class Tested:
    """What checking a problem takes."""

    start: str
    name: str
    tests: str


class ProgramFile:
    """See `Task`. Each line has `prompt` (the beginning of a program), `entry_point` (the function's name),
    `test` (Python code that calls it, or defines `check(candidate)`), and perhaps `canonical_solution` (what
    follows the prompt). The file may be gzipped. `ask`: what a question is made of, with {prompt} in it.
    Raises `UsageError`, with the line."""

    extract: Extract = str  # the check finds the program itself

    def __init__(
        self,
        path: str | Path,
        ask: str = "Complete this Python program:\n```python\n{prompt}```",
        *,
        sandbox: Sandbox | None = None,
    ) -> None:
        self._path, self._ask, self._sandbox = Path(path), ask, sandbox
        try:
            self._text = _unpacked(self._path.read_bytes()).decode()
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise UsageError(f"programs {shortened(path)}: cannot be read: {error}") from error
        self._problems = [
            self._problem(line, number)
            for number, line in enumerate(self._text.split("\n"), 1)
            if line.strip()
        ]

    @property
    def name(self) -> str:
        """The file's, and how it is asked."""
        return f"programs {self._path.name} {self._ask!r}"

    @property
    def version(self) -> str:
        """A hash of the file."""
        return sha256(self._text.encode()).hexdigest()[:16]

    @cached_property
    def sandbox(self) -> Sandbox:
        """Where answers are run."""
        return self._sandbox or Sandbox()

    @cached_property
    def all_problems(self) -> Sequence[Problem]:
        """Of both splits, in the file's order: for measuring alone."""
        return list({problem.key: problem for problem in self._problems}.values())

    def problems(self, split: Split, seed: int, count: int) -> Sequence[Problem]:
        """See `Task`: a fifth of the file is for testing. Raises `EnvError` where it has fewer."""
        found = [problem for problem in self.all_problems if split_of(problem) == split]
        if len(found) < count:
            raise EnvError(f"{self.name}: has no {count} different problems for {split}, but {len(found)}")
        Random(seed).shuffle(found)
        return found[:count]

    def check(self, problem: Problem, answer: str) -> float:
        """Of the code in the answer: a whole program, or what follows the prompt. Raises `EnvError` where the
        sandbox or the tests fail."""
        return float(self.verdict(problem, answer).passed)

    def verdict(self, problem: Problem, answer: str) -> Verdict:
        """The same with its reason."""
        tested = problem.data
        assert isinstance(tested, Tested)
        program = code(answer) or ""
        start = tested.start
        if _defines(program, tested.name):
            start = start.partition(f"def {tested.name}")[0]  # imports, and functions that help
        program = start + program
        return check_tests(self.sandbox, program, tested.name, tested.tests)

    def _problem(self, line: str, number: int) -> Problem:
        where = f"programs {shortened(self._path)}, line {number}"
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where}: no JSON: {error}") from error
        for field in _FIELDS:
            if not isinstance(row, dict) or not isinstance(row.get(field), str):
                raise UsageError(f"{where}: has no {quoted(field)} that is a text")
        name = row["entry_point"]
        if not name.isidentifier():
            raise UsageError(f"{where}: entry_point {quoted(name)} is no name of a function")
        tests = _helpers(row["prompt"], name) + row["test"]
        tests += f"\ncheck({name})\n" if _defines(row["test"], "check") else ""
        answer = row["prompt"] + str(row.get("canonical_solution", ""))
        question = self._ask.replace("{prompt}", row["prompt"])
        return Problem(question, answer, Tested(row["prompt"], name, tests))


def _unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def _helpers(prompt: str, name: str) -> str:
    """What stands before the function, where it is a program: some tests of HumanEval call it."""
    start = prompt.partition(f"def {name}")[0]
    try:
        ast.parse(start)
    except (SyntaxError, ValueError):
        return ""
    return f"{start}\n"


def _defines(program: str, name: str) -> bool:
    return re.search(rf"^(?:async +)?def +{name}\b|^{name} *=", program, re.MULTILINE) is not None
