"""Small functions to write in Python, without end: numbers, lists and words, one step each, checked by
running them.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from random import Random
from typing import Any, Literal, get_args

from sampan.core.errors import UsageError, quoted
from sampan.envs.answers import code
from sampan.envs.drawn import drawn
from sampan.envs.rewards import Extract
from sampan.envs.sandbox.sandbox import Sandbox
from sampan.envs.sandbox.verdict import Case, Verdict, check_calls
from sampan.envs.task import Problem, Split

Kind = Literal["numbers", "lists", "words"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# What the function returns, in words and as Python. a and b are numbers, w a word.
_STEPS: dict[Kind, tuple[tuple[str, str], ...]] = {
    "numbers": (
        ("x plus {a}", "x + {a}"),
        ("x minus {a}", "x - {a}"),
        ("{a} minus x", "{a} - x"),
        ("x times {a}", "x * {a}"),
        ("x times {a}, plus {b}", "x * {a} + {b}"),
        ("x squared plus {a}", "x * x + {a}"),
        ("the larger of x and {a}", "max(x, {a})"),
        ("the remainder of x divided by {a}", "x % {a}"),
        ("True if x is greater than {a}, and False otherwise", "x > {a}"),
        ("True if x is a multiple of {a}, and False otherwise", "x % {a} == 0"),
    ),
    "lists": (
        ("the sum of the list x, plus {a}", "sum(x) + {a}"),
        ("the largest number of the list x, times {a}", "max(x) * {a}"),
        ("the list x with {a} added to every number", "[y + {a} for y in x]"),
        ("the list x with every number multiplied by {a}", "[y * {a} for y in x]"),
        ("the list of those numbers of the list x that are less than {a}", "[y for y in x if y < {a}]"),
        ("how many numbers of the list x are greater than {a}", "sum(y > {a} for y in x)"),
        ("the list x with {a} appended at its end", "x + [{a}]"),
    ),
    "words": (
        ('the string x followed by "{w}"', "x + '{w}'"),
        ('the string "{w}" followed by x', "'{w}' + x"),
        ("the string x repeated {a} times", "x * {a}"),
        ('the string x reversed, followed by "{w}"', "x[::-1] + '{w}'"),
        ('the string x in upper case, followed by "{w}"', "x.upper() + '{w}'"),
        ("the length of the string x, plus {a}", "len(x) + {a}"),
        ('True if the string x contains "{w}", and False otherwise', "'{w}' in x"),
    ),
}
_CASES = 6


class Programs:
    """See `Task`. `kinds`: of "numbers", "lists", "words". `hint`: what each question ends with. `partial`:
    an answer earns the share of cases that it gets right, otherwise 1 for all of them or 0."""

    extract: Extract = str  # the check finds the program itself

    def __init__(
        self,
        kinds: Kind | Sequence[Kind] = KINDS,
        hint: str = "",
        *,
        partial: bool = False,
        sandbox: Sandbox | None = None,
    ) -> None:
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        for kind in kinds:
            if kind not in _STEPS:
                raise UsageError(f"programs: kind {quoted(kind)}: one of {', '.join(KINDS)}")
        if not kinds:
            raise UsageError("programs: kinds is empty: name one at least")
        self.kinds, self.hint, self.partial = tuple(kinds), hint, partial
        self._sandbox = sandbox

    @property
    def name(self) -> str:
        """With its options."""
        options = {"kinds": self.kinds, "partial": self.partial, "hint": self.hint}
        return f"programs {json.dumps(options, sort_keys=True)}"

    @cached_property
    def sandbox(self) -> Sandbox:
        """Where answers are run."""
        return self._sandbox or Sandbox()

    def problems(self, split: Split, seed: int, count: int) -> Sequence[Problem]:
        """See `Task`."""
        return drawn(self.name, self._draw, split, seed, count)

    def check(self, problem: Problem, answer: str) -> float:
        """Of the code in the answer (see `answers.code`). Raises `EnvError` where the sandbox fails."""
        verdict = self.verdict(problem, answer)
        if self.partial:
            return verdict.right / len(self._cases(problem))
        return float(verdict.passed)

    def verdict(self, problem: Problem, answer: str) -> Verdict:
        """The same with its reason."""
        return check_calls(self.sandbox, code(answer) or "", "f", self._cases(problem), self.partial)

    @staticmethod
    def _cases(problem: Problem) -> Sequence[Case]:
        assert isinstance(problem.data, tuple)
        return problem.data

    def _draw(self, random: Random, _number: int) -> Problem:
        kind = random.choice(self.kinds)
        words, program = random.choice(_STEPS[kind])
        most = 9 if "repeated" in words else 999
        parts = {"a": random.randint(2, most), "b": random.randint(2, 99), "w": _word(random)}
        question = f"Write a Python function f(x) that returns {words.format(**parts)}.{self.hint}"
        answer = f"def f(x):\n    return {program.format(**parts)}"
        return Problem(question, answer, _cases(kind, answer, parts, question))


def _cases(kind: Kind, answer: str, parts: dict[str, Any], question: str) -> tuple[Case, ...]:
    """The same for the same question; no single value is right for all."""
    rng, space = Random(question), dict[str, Any]()
    exec(answer, space)  # the line above, of this module's own making
    while True:
        inputs = [_input(kind, parts, rng, place) for place in range(_CASES)]
        cases = tuple(Case((value,), space["f"](value)) for value in inputs)
        if any(case.value != cases[0].value for case in cases):
            return cases


def _input(kind: Kind, parts: dict[str, Any], rng: Random, place: int) -> Any:
    """The first few are where answers that are nearly right go wrong."""
    a = parts["a"]
    if kind == "numbers":
        return (a, a + 1, 0, 2 * a, -7)[place] if place < 5 else rng.randint(-99, 99)
    if kind == "lists":
        return [rng.choice((a, a - 1, a + 1, rng.randint(-99, 99))) for _ in range(rng.randint(1, 6))]
    if place < 2:
        return _word(rng) + parts["w"] * place
    return "" if place == 2 else _word(rng)


def _word(rng: Random) -> str:
    return "".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
