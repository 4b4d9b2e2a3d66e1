"""Worked solutions: every step is true, and the last leads to the right answer."""

import re

import pytest

from sampan.core.errors import UsageError
from sampan.core.types import Completion
from sampan.envs.answers import last_number, last_word, tagged
from sampan.envs.form import formatted
from sampan.envs.named import task_of
from sampan.envs.worked import solutions, solver_of

TASKS = [
    "gym:chain_sum",
    "gym:chain_sum?allow_negation=true",
    "gym:chain_sum?min_terms=2&max_terms=3&max_digits=2",
    "gym:products",
    "gym:products?min_terms=3&max_terms=3&max_digits=2&allow_negation=true",
    "gym:gcd",
    "gym:gcd?min_numbers=3&max_numbers=4",
    "gym:lcm",
    "gym:lcm?min_numbers=3&max_numbers=3",
    "gym:letter_counting",
    "gym:spell_backward",
]


@pytest.mark.parametrize("name", TASKS)
def test_solutions_are_right(name: str) -> None:
    task = task_of(name)
    extract = last_word if "spell" in name else last_number
    solve, form = solver_of(task), formatted()
    plain, between = solutions(task), solutions(task, tagged=True)
    for problem in task.problems("train", 1, 300):
        solution = solve(problem)
        assert solution.steps
        assert (plain(problem), between(problem)) == (solution.plain, solution.tagged)
        for text, found in (
            (solution.plain, extract(solution.plain)),
            (solution.tagged, tagged(solution.tagged)),
        ):
            assert found is not None
            assert task.check(problem, found) == 1.0, text
        assert form(problem, Completion(solution.tagged, "", (1,), (), "stop", 1)) == 1.0
        for left, right in re.findall(r"^([-\d+*/ ]+) = ([-\d+* ]+)$", solution.plain, re.MULTILINE):
            assert eval(left) == eval(right)


def test_letters_are_spelled_by_words() -> None:
    task = task_of("gym:letter_counting?min_words=3&max_words=3")
    for problem in task.problems("train", 0, 50):
        for line in solver_of(task)(problem).steps:
            word, spelled = line.rpartition(", ")[0].split(": ")
            assert "".join(spelled.split()) == word.lower()


def test_tasks_without_solutions_are_refused() -> None:
    with pytest.raises(UsageError, match=r"rubiks_cube.*no worked solutions: gym:chain_sum"):
        solver_of(task_of("gym:rubiks_cube"))
