"""Entailment in the manner of HANS: a reader of its own says what each premise asserts."""

import re
from collections import Counter

import pytest

from sampan.core.errors import UsageError
from sampan.envs.inference.hans import Entailment, Hans
from sampan.envs.inference.sentences import CASES, HEURISTICS
from sampan.envs.task import Problem, split_of
from sampan.envs.worked import solver_of

DOUBT = r"perhaps|maybe|probably|supposedly|possibly"
SURE = r"certainly|clearly|obviously|undoubtedly|of course"
FACTIVE = r"remembered|knew|forgot|realized|learned"
NEAR = r"near|behind|beside|next to|in front of"
INSIDE = r"in the office|in the garden|at the station|in the library|at the hotel"
P, V = r"(the [a-z]+)", r"([a-z]+)"


def asserted(premise: str) -> set[str]:
    """What a premise says for certain, by its structure alone."""
    rules = (
        (r"(?:unless|if|provided that) .*", ()),
        (r"before P V P V", ("{2} {3}",)),
        (r"(?:because|although|after|since|though) (.*), (.*)", ("*0", "*1")),
        (r".*, or .*", ()),
        (r"(.*), and (.*)", ("*0", "*1")),
        (rf"(?:{DOUBT}) .*", ()),
        (rf"(?:{SURE}) (.*)", ("*0",)),
        (rf"P (?:{FACTIVE}) that (.*)", ("*1",)),
        (r"P V that .*", ()),
        (r"P (?:was|were) V by P", ("{2} {1} {0}",)),
        (r"P who (P V) V P", ("{1} {0}", "{0} {4} {5}")),
        (r"P who V P V", ("{0} {1} {2}", "{0} {3}")),
        (r"P who V V P", ("{0} {1}", "{0} {2} {3}")),
        (r"P V P who P V", ("{0} {1} {2}", "{3} {4} {2}")),
        (r"P V P who V", ("{0} {1} {2}", "{2} {3}")),
        (rf"P (?:{NEAR}) P V", ("{0} {2}",)),
        (rf"P (?:{NEAR}) P V P", ("{0} {2} {3}",)),
        (rf"P V P (?:{NEAR}) P", ("{0} {1} {2}",)),
        (rf"P V (?:{INSIDE}) V", ("{0} {2}",)),
        (r"P and P V", ("{0} {2}", "{1} {2}")),
        (r"P V P and P", ("{0} {1} {2}", "{0} {1} {3}")),
        (r"P V P V", ()),  # of what somebody knew, heard or believed
        (r"P V P", ("{0} {1} {2}", "{0} {1}")),
        (r"P V", ("{0} {1}",)),
        (r"(?!the )V V V P", ("{1} {2} {3}",)),
    )
    for words, says in rules:
        found = re.fullmatch(words.replace("P", P).replace("V", V), premise)
        if found:
            parts = found.groups()
            sets = [
                asserted(parts[int(each[1])]) if each[0] == "*" else {each.format(*parts)} for each in says
            ]
            return set().union(*sets)
    raise AssertionError(f"cannot read {premise!r}")


def parts(problem: Problem) -> tuple[str, str]:
    """Premise and hypothesis, as the question has them."""
    patterns = (
        r"Premise: (.*)\.\nHypothesis: (.*)\.\nDoes .*",
        r"(?!Premise:|Suppose that|Text:)(.*)\.\nDoes this mean that (.*)\?.*",
        r"Suppose that this is true: (.*)\.\nIs it then certain that (.*)\?.*",
        r"Text: (.*)\.\nStatement: (.*)\.\nIs .*",
    )
    for pattern in patterns:
        found = re.fullmatch(pattern, problem.question)
        if found:
            return found[1][0].lower() + found[1][1:], found[2][0].lower() + found[2][1:]
    raise AssertionError(problem.question)


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return list(Hans().problems("train", 3, 3000))


def test_labels_are_right_for_what_the_sentences_say(problems: list[Problem]) -> None:
    for problem in problems:
        premise, asked = parts(problem)
        assert problem.answer == ("yes" if asked in asserted(premise) else "no"), problem


def test_every_kind_of_sentence_is_there(problems: list[Problem]) -> None:
    found = Counter(problem.data.case for problem in problems if isinstance(problem.data, Entailment))
    assert set(found) == set(CASES)
    assert len(CASES) == 30
    assert {(case.heuristic, case.follows) for case in CASES} == {
        (heuristic, follows) for heuristic in HEURISTICS for follows in (True, False)
    }


def test_rules_of_thumb_are_trapped(problems: list[Problem]) -> None:
    for problem in problems:
        premise, asked = (re.sub(r"[,.]", "", text) for text in parts(problem))
        assert not Counter(asked.split()) - Counter(premise.split())
        if problem.data.case.heuristic != "lexical_overlap":  # type: ignore[attr-defined]
            assert f" {asked} " in f" {premise} "


@pytest.mark.parametrize("heuristic", HEURISTICS)
def test_each_rule_of_thumb_is_right_half_of_the_time(heuristic: str) -> None:
    task = Hans(heuristics=(heuristic,), labels=("entailment", "neutral"))
    for split, seed in (("train", 0), ("test", 1)):
        found = task.problems(split, seed, 200)  # type: ignore[arg-type]
        assert Counter(problem.answer for problem in found) == {"entailment": 100, "neutral": 100}
        assert all(split_of(problem) == split for problem in found)
        assert all(problem.data.case.heuristic == heuristic for problem in found)  # type: ignore[attr-defined]
    assert "Answer entailment or neutral." in found[0].question


def test_answers_are_words(problems: list[Problem]) -> None:
    task, first = Hans(), problems[0]
    other = "no" if first.answer == "yes" else "yes"
    for said, share in (
        (first.answer, 1.0),
        (f"The answer is {first.answer.upper()}.", 1.0),
        (f"{other}? {first.answer}!", 1.0),
        (other, 0.0),
    ):
        found = task.extract(said)
        assert found is not None
        assert task.check(first, found) == share
    assert task.extract("I know nothing; yesterday, no-one did.") is None


def test_worked_solutions_end_in_the_answer(problems: list[Problem]) -> None:
    task = Hans()
    solve = solver_of(task)
    for problem in problems[:500]:
        found = task.extract(solve(problem).plain)
        assert found is not None
        assert task.check(problem, found) == 1.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heuristics": ("luck",)}, "lexical_overlap, subsequence, constituent"),
        ({"heuristics": ()}, "heuristics"),
        ({"labels": ("a", "b", "c")}, "labels"),
        ({"plain": "yes"}, "plain is 'yes'"),
    ],
)
def test_options_are_refused_by_name(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Hans(**options)  # type: ignore[arg-type]
