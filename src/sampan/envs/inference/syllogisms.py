"""Syllogisms: whether a statement about kinds of things follows from others. What follows is decided by the
models of the statements (`logic.py`), not by a list of moods."""

from collections.abc import Sequence
from functools import cache
from random import Random

from sampan.core.errors import UsageError, quoted
from sampan.envs.inference.labelled import Labelled, sentence
from sampan.envs.inference.logic import Argument, Statement, Verdict, arguments, verdict
from sampan.envs.inference.proofs import Syllogism, explain
from sampan.envs.inference.words import SAID, WORDS, Noun, choose
from sampan.envs.solution import Solution
from sampan.envs.task import Problem

_ASKED = {
    2: (
        "{premises}\nDoes it follow that {conclusion}?",
        "{premises}\nMust it then be true that {conclusion}?",
        "Premises: {premises}\nConclusion: {Conclusion}\nDoes the conclusion follow from the premises?",
        "Suppose that all of this is true: {premises}\nIs it certain that {conclusion}?",
    ),
    3: (
        "{premises}\nIs it true that {conclusion}, or can one not know?",
        "Premises: {premises}\nStatement: {Conclusion}\nWhat do the premises say of the statement?",
        "Suppose that all of this is true: {premises}\nWhat of this: {Conclusion}",
    ),
}
_EMPTY = {None: "", True: " A kind may have no members.", False: " Every kind has members."}


class Syllogisms(Labelled):
    """See `Task`. Two labels: whether the conclusion follows. Three: whether it is true, false, or neither
    can be known. `words`: what kinds are called (one of `WORDS`). `plain`: every form of statement and of
    question always in the same words. `empty`: whether kinds may have no members, which the question
    says; None leaves out the arguments where that matters."""

    def __init__(
        self,
        premises: int = 2,
        words: str = "mixed",
        plain: bool = False,
        empty: bool | None = None,
        labels: Sequence[str] = ("yes", "no"),
        hint: str = "",
    ) -> None:
        if premises not in (2, 3) or not isinstance(premises, int):
            raise UsageError(f"syllogism: premises is {quoted(premises)}: 2 or 3")
        if words not in WORDS:
            raise UsageError(f"syllogism: words is {quoted(words)}: one of {', '.join(WORDS)}")
        if empty not in (None, True, False):
            raise UsageError(f"syllogism: empty is {quoted(empty)}: give true or false, or nothing")
        if len(labels) not in _ASKED:
            raise UsageError(f"syllogism: labels are {quoted(labels)}: give 2 (it follows or not) or 3")
        options = {"premises": premises, "words": words, "plain": plain, "empty": empty}
        super().__init__("syllogism", labels, hint, options)
        self.premises = premises
        self._words, self._plain, self._empty = words, plain, empty
        self._choices = _by_label(premises, empty, len(labels))

    def solution(self, problem: Problem) -> Solution:
        """By a contradiction, or by a world where the premises are true and the conclusion is not."""
        assert isinstance(problem.data, Syllogism)
        return Solution(explain(problem.data, len(self.labels) == 3), problem.answer)

    def _question(self, random: Random, label: int) -> tuple[str, object]:
        argument = random.choice(self._choices[label])
        nouns = tuple(choose(random, self._words, argument.kinds))
        order = tuple(random.sample(range(len(argument.premises)), len(argument.premises)))
        said = [self._say(random, argument.premises[place], nouns) for place in order]
        conclusion = self._say(random, argument.conclusion, nouns)
        asked = self._one(random, _ASKED[len(self.labels)]).format(
            premises=" ".join(map(sentence, said)) + _EMPTY[self._empty],
            conclusion=conclusion,
            Conclusion=sentence(conclusion),
        )
        made = Syllogism(argument, nouns, order, self._empty)
        return f"{asked} {self._choice}", made

    def _say(self, random: Random, statement: Statement, nouns: Sequence[Noun]) -> str:
        words = self._one(random, SAID[statement.form])
        return words.format(S=nouns[statement.subject], P=nouns[statement.predicate])

    def _one(self, random: Random, wordings: Sequence[str]) -> str:
        return wordings[0] if self._plain else random.choice(wordings)


@cache
def _by_label(premises: int, empty: bool | None, labels: int) -> tuple[tuple[Argument, ...], ...]:
    """The arguments with each label for their answer."""
    label = {Verdict.TRUE: 0, Verdict.FALSE: 1, Verdict.OPEN: labels - 1}
    found: list[list[Argument]] = [[] for _ in range(labels)]
    readings = (True, False) if empty is None else (empty,)
    for each in arguments(premises):
        told = {label[verdict(each.premises, each.conclusion, each.kinds, reading)] for reading in readings}
        if len(told) == 1:
            found[told.pop()].append(each)
    return tuple(map(tuple, found))
