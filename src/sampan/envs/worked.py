"""Worked solutions: short texts that go to the right answer step by step, as a model may learn to write them.

A task that has a method `solution(problem)` has its own. For some tasks of reasoning-gym they stand here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from sampan.core.errors import UsageError
from sampan.envs.gym import GymTask
from sampan.envs.solution import Solution
from sampan.envs.task import Problem, Task


@runtime_checkable
class Solvable(Protocol):
    """A task that can solve its problems."""

    def solution(self, problem: Problem) -> Solution: ...


def solver_of(task: Task) -> Callable[[Problem], Solution]:
    """Raises `UsageError` where a task has no worked solutions."""
    if isinstance(task, Solvable):
        return task.solution
    if isinstance(task, GymTask) and task.task in _GYM:
        solve = _GYM[task.task]
        return lambda problem: solve(_metadata(problem))
    there = ", ".join(f"gym:{name}" for name in _GYM)
    raise UsageError(f"task {task.name}: has no worked solutions: {there} have, and tasks with `solution`")


def solutions(task: Task, tagged: bool = False) -> Callable[[Problem], str]:
    """The same as texts, for supervised stages: plain, or between tags."""
    solve = solver_of(task)
    return lambda problem: solve(problem).tagged if tagged else solve(problem).plain


def _metadata(problem: Problem) -> Mapping[str, Any]:
    data: Any = problem.data
    found: Mapping[str, Any] = data["metadata"]
    return found


def _places(number: int) -> list[int]:
    """What a number is the sum of, the largest first: 407 is 400 and 7."""
    digits = str(number)
    parts = [int(digit) * 10 ** (len(digits) - 1 - at) for at, digit in enumerate(digits)]
    return [part for part in parts if part] or [0]


def _chain_sum(told: Mapping[str, Any]) -> Solution:
    """Place by place onto a running total."""
    first, *rest = str(told["expression"]).split()
    total, steps = int(first), list[str]()
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        change = int(term) if sign == "+" else -int(term)
        for part in _places(abs(change)):
            after = total + part if change >= 0 else total - part
            steps.append(f"{total} {'+' if change >= 0 else '-'} {part} = {after}")
            total = after
    return Solution(tuple(steps), str(total))


def _products(told: Mapping[str, Any]) -> Solution:
    """Place by place of both factors; signs at the end."""
    factors = [int(factor) for factor in str(told["expression"]).split(" * ")]
    total, steps = abs(factors[0]), list[str]()
    for factor in map(abs, factors[1:]):
        total = _product(total, factor, steps)
    minus = sum(factor < 0 for factor in factors)
    if minus:
        steps.append(f"{minus} of the factors {'is' if minus == 1 else 'are'} negative.")
    return Solution(tuple(steps), str(-total if minus % 2 else total))


def _product(left: int, right: int, steps: list[str]) -> int:
    total: int | None = None
    for part in _places(right):
        for place in _places(left):
            steps.append(f"{place} * {part} = {place * part}")
            if total is not None:
                steps.append(f"{total} + {place * part} = {total + place * part}")
            total = (total or 0) + place * part
    return total or 0


def _gcd(told: Mapping[str, Any]) -> Solution:
    """By Euclid's algorithm."""
    steps: list[str] = []
    found, *rest = _numbers(told)
    for number in rest:
        found = _common(found, number, steps)
    return Solution(tuple(steps), str(found))


def _lcm(told: Mapping[str, Any]) -> Solution:
    """A number's share that is not common, times the other."""
    steps: list[str] = []
    found, *rest = _numbers(told)
    for number in rest:
        common = _common(found, number, steps)
        steps.append(f"{found} / {common} = {found // common}")
        steps.append(f"{found // common} * {number} = {found // common * number}")
        found = found // common * number
    return Solution(tuple(steps), str(found))


def _common(left: int, right: int, steps: list[str]) -> int:
    left, right = max(left, right), min(left, right)
    while right:
        steps.append(f"{left} = {left // right} * {right} + {left % right}")
        left, right = right, left % right
    return left


def _numbers(told: Mapping[str, Any]) -> Sequence[int]:
    numbers: Sequence[int] = told["numbers"]
    return numbers


def _letter_counting(told: Mapping[str, Any]) -> Solution:
    """Word by word, spelled."""
    total, steps = 0, list[str]()
    for word in told["span"]:
        letters = str(word).lower()
        total += letters.count(told["target_letter"])
        steps.append(f"{word}: {' '.join(letters)}, {total}")
    return Solution(tuple(steps), str(total))


def _spell_backward(told: Mapping[str, Any]) -> Solution:
    """Letter by letter."""
    word = str(told["word"])
    return Solution((" ".join(word), " ".join(reversed(word))), word[::-1])


_GYM: Mapping[str, Callable[[Mapping[str, Any]], Solution]] = {
    "chain_sum": _chain_sum,
    "products": _products,
    "gcd": _gcd,
    "lcm": _lcm,
    "letter_counting": _letter_counting,
    "spell_backward": _spell_backward,
}
