"""Entailment between sentences (see `sentences.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from sampan.core.errors import UsageError, quoted
from sampan.envs.inference.labelled import Labelled, sentence
from sampan.envs.inference.sentences import CASES, HEURISTICS, Case, fill
from sampan.envs.solution import Solution
from sampan.envs.task import Problem

_ASKED = (
    "Premise: {Premise}\nHypothesis: {Asked}\nDoes the hypothesis follow from the premise?",
    "{Premise}\nDoes this mean that {asked}?",
    "Suppose that this is true: {Premise}\nIs it then certain that {asked}?",
    "Text: {Premise}\nStatement: {Asked}\nIs the statement certainly true if the text is?",
)


@dataclass(frozen=True)
class Entailment:
    """What a question was made of. `says`: the clauses that the premise asserts."""

    case: Case
    premise: str
    asked: str
    says: tuple[str, ...]


class Hans(Labelled):
    """See `Task`. `heuristics`: which wrong rules of thumb the problems trap (of `HEURISTICS`); what is
    asked about follows in half of each. `plain`: every question in the same words. `labels`: what it is
    called that the hypothesis follows, and that it does not."""

    def __init__(
        self,
        heuristics: Sequence[str] = HEURISTICS,
        plain: bool = False,
        labels: Sequence[str] = ("yes", "no"),
        hint: str = "",
    ) -> None:
        if isinstance(heuristics, str):
            heuristics = (heuristics,)
        unknown = [name for name in heuristics if name not in HEURISTICS]
        if unknown or not heuristics:
            raise UsageError(f"hans: heuristics are {quoted(heuristics)}: of {', '.join(HEURISTICS)}")
        if len(labels) != 2:
            raise UsageError(f"hans: labels are {quoted(labels)}: give 2 (it follows or not)")
        super().__init__("hans", labels, hint, {"heuristics": sorted(heuristics), "plain": plain})
        self._plain = plain
        own = [case for case in CASES if case.heuristic in heuristics]
        self._cases = [[case for case in own if case.follows], [case for case in own if not case.follows]]

    def solution(self, problem: Problem) -> Solution:
        """What the premise says, and whether that is what is asked."""
        made = problem.data
        assert isinstance(made, Entailment)
        says = (
            f"The text says for certain: {'; '.join(made.says)}."
            if made.says
            else "For certain it says nothing."
        )
        found = "is" if made.asked in made.says else "is not"
        return Solution((says, f"That {made.asked} {found} among it."), problem.answer)

    def _question(self, random: Random, label: int) -> tuple[str, object]:
        case = random.choice(self._cases[label])
        premise, asked, says = fill(random, case)
        words = _ASKED[0] if self._plain else random.choice(_ASKED)
        question = words.format(Premise=sentence(premise), Asked=sentence(asked), asked=asked)
        return f"{question} {self._choice}", Entailment(case, premise, asked, says)
