"""Syllogisms: the labels are right by every model there is, whatever the words."""

import re
from collections import Counter
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from sampan.core.errors import UsageError
from sampan.envs.inference.logic import Form, Statement, Verdict, arguments, model, verdict
from sampan.envs.inference.syllogisms import Syllogisms
from sampan.envs.inference.words import NOUNS
from sampan.envs.task import split_of
from sampan.envs.worked import solver_of


def holds(statement: Statement, worlds: np.ndarray, kinds: int) -> np.ndarray:
    """In which worlds (sets of things) a statement is true, straight from what it says."""
    shared, other = np.zeros(len(worlds), bool), np.zeros(len(worlds), bool)
    for thing in range(1 << kinds):
        if thing >> statement.subject & 1:
            there = (worlds >> thing & 1).astype(bool)
            if thing >> statement.predicate & 1:
                shared |= there
            else:
                other |= there
    truth = {Form.ALL: ~other, Form.NO: ~shared, Form.SOME: shared, Form.SOME_NOT: other}
    return truth[statement.form]


def worlds_of(premises: Sequence[Statement], kinds: int, empty: bool) -> np.ndarray:
    """All where these are true."""
    worlds = np.arange(1 << (1 << kinds), dtype=np.int64)
    for kind in range(kinds):
        if not empty:
            members = sum(1 << thing for thing in range(1 << kinds) if thing >> kind & 1)
            worlds = worlds[(worlds & members) != 0]
    for premise in premises:
        worlds = worlds[holds(premise, worlds, kinds)]
    return worlds


def by_models(premises: Sequence[Statement], asked: Statement, kinds: int, empty: bool) -> Verdict:
    found = holds(asked, worlds_of(premises, kinds, empty), kinds)
    assert len(found)
    return Verdict.TRUE if found.all() else Verdict.OPEN if found.any() else Verdict.FALSE


@pytest.mark.parametrize(("empty", "valid"), [(True, 15), (False, 24)])
def test_all_moods_of_all_figures_by_all_models(empty: bool, valid: int) -> None:
    every = list(arguments(2))
    assert len(set(every)) == 256
    found = Counter()
    for each in every:
        told = verdict(each.premises, each.conclusion, 3, empty)
        assert told is by_models(each.premises, each.conclusion, 3, empty)
        found[told] += 1
    assert found[Verdict.TRUE] == found[Verdict.FALSE] == valid  # as the tradition has it


@pytest.mark.parametrize("empty", [True, False])
def test_arguments_of_three_premises_by_all_models(empty: bool) -> None:
    every = list(arguments(3))
    for each in Random(3).sample(every, 30):
        told = verdict(each.premises, each.conclusion, 4, empty)
        assert told is by_models(each.premises, each.conclusion, 4, empty)
    followed = [each for each in every if verdict(each.premises, each.conclusion, 4, empty) is Verdict.TRUE]
    for each in followed:
        assert by_models(each.premises, each.conclusion, 4, empty) is Verdict.TRUE


def test_a_model_makes_its_statements_true() -> None:
    for each in arguments(2):
        for empty in (True, False):
            said = [*each.premises, each.conclusion]
            there = worlds_of(said, 3, empty)
            if not len(there):
                with pytest.raises(ValueError, match="contradict"):
                    model(said, 3, empty)
                continue
            found = sum(1 << thing for thing in model(said, 3, empty))
            assert found in there
            assert found.bit_count() == min(int(world).bit_count() for world in there)


def test_contradictory_premises_prove_nothing() -> None:
    said = Statement(Form.ALL, 0, 1)
    with pytest.raises(ValueError, match="contradict"):
        verdict([said, said.denial], Statement(Form.ALL, 0, 2), 3, True)


A, N = "an? ", r"([a-z]+)"
READINGS = (
    (Form.ALL, f"all {N} are {N}|(?:every|each) {N} is {A}{N}|whatever is {A}{N} is {A}{N}"),
    (Form.ALL, f"there is no {N} that is not {A}{N}"),
    (Form.NO, f"no {N} are {N}|no {N} is {A}{N}|nothing that is {A}{N} is {A}{N}"),
    (Form.NO, f"there is no {N} that is {A}{N}|there are no {N} that are {N}"),
    (Form.SOME, f"some {N} are {N}|at least one {N} is {A}{N}|one or more {N} are {N}"),
    (Form.SOME, f"there is {A}{N} that is {A}{N}"),
    (Form.SOME_NOT, f"some {N} are not {N}|at least one {N} is not {A}{N}|not all {N} are {N}"),
    (Form.SOME_NOT, f"not every {N} is {A}{N}|there is {A}{N} that is not {A}{N}"),
)
ONE = {noun.many: noun.one for nouns in NOUNS.values() for noun in nouns}


def read(question: str) -> tuple[list[Statement], int]:
    """The statements of a question in their order, what is asked last, and how many kinds there are."""
    text = re.sub(r" Answer .*", "", question, flags=re.DOTALL).replace("Every kind has members.", "")
    kinds: dict[str, int] = {}
    found: list[tuple[int, Statement]] = []
    for form, words in READINGS:
        for match in re.finditer(rf"(?i)(?<!not )\b(?:{words})\b(?=[.?,]| Must)", text):
            pair = [word.lower() for word in match.groups() if word]
            pair = [ONE.get(word, word.removesuffix("s")) for word in pair]
            ends = [kinds.setdefault(word, len(kinds)) for word in pair]
            found.append((match.start(), Statement(form, *ends)))
    return [statement for _, statement in sorted(found, key=lambda each: each[0])], len(kinds)


CASES = [
    {},
    {"premises": 3},
    {"words": "nonsense", "empty": True},
    {"premises": 3, "labels": ("true", "false", "unknown"), "empty": False},
    {"labels": ("true", "false", "unknown"), "plain": True},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_labels_are_right_for_what_the_words_say(options: dict[str, object]) -> None:
    task = Syllogisms(**options)  # type: ignore[arg-type]
    readings = (True, False) if options.get("empty") is None else (options["empty"],)
    for problem in task.problems("train", 5, 45 if options.get("premises") == 3 else 150):
        (*premises, asked), kinds = read(problem.question)
        assert (len(premises), kinds) == (task.premises, task.premises + 1)
        for empty in readings:
            found = by_models(premises, asked, kinds, bool(empty))
            if len(task.labels) == 2:
                assert problem.answer == ("yes" if found is Verdict.TRUE else "no")
            else:
                assert problem.answer == {"true": "true", "false": "false", "open": "unknown"}[found.value]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_labels_are_balanced_and_problems_disjoint(options: dict[str, object]) -> None:
    task = Syllogisms(**options)  # type: ignore[arg-type]
    train, test = task.problems("train", 0, 300), task.problems("test", 1, 300)
    for problems in (train, test):
        counts = Counter(problem.answer for problem in problems)
        assert set(counts.values()) == {300 // len(task.labels)}
        assert len({problem.key for problem in problems}) == 300
    assert not {each.key for each in train} & {each.key for each in test}
    assert all(split_of(problem) == "test" for problem in test)
    assert task.problems("train", 0, 40) == train[:40]
    assert task.problems("train", 2, 40) != train[:40]


def test_words_and_wordings_vary() -> None:
    asked = [problem.question for problem in Syllogisms().problems("train", 0, 200)]
    assert len({re.sub(r"\b(?!that|than|is|are)[a-z]{3,}s?\b", "_", text) for text in asked}) > 100
    plain = [problem.question for problem in Syllogisms(plain=True).problems("train", 0, 200)]
    assert all("Does it follow that" in text for text in plain)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_worked_solutions_end_in_the_answer(options: dict[str, object]) -> None:
    task = Syllogisms(**options)  # type: ignore[arg-type]
    solve = solver_of(task)
    for problem in task.problems("train", 3, 300):
        solution = solve(problem)
        found = task.extract(solution.plain)
        assert found is not None
        assert task.check(problem, found) == 1.0
        proof = problem.answer in ("yes", "true", "false")
        assert solution.steps[-1].endswith("a contradiction." if proof else ".")
        assert ("perhaps there is only" in solution.plain) == (not proof)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"premises": 4}, "premises is 4"),
        ({"premises": True}, "premises is True"),
        ({"words": "plants"}, "mixed, people, animals, objects, nonsense"),
        ({"labels": ("yes",)}, "labels"),
        ({"labels": ("yes", "Yes")}, "different words"),
        ({"labels": "yn"}, "different words"),
        ({"empty": "no"}, "empty is 'no'"),
        ({"plain": 1}, "plain is 1"),
    ],
)
def test_options_are_refused_by_name(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Syllogisms(**options)  # type: ignore[arg-type]
