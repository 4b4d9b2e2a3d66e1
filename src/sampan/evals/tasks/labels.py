"""Problems whose answer is one of a few words, the same for all."""

import re
from abc import ABC
from typing import ClassVar

from sampan.envs.answers import chosen
from sampan.envs.task import Problem
from sampan.evals.benchmark import Options
from sampan.evals.tasks.packaged import OfRows
from sampan.evals.tasks.said import boxed, marked, plain, spoken


def label_in(text: str, labels: tuple[str, ...]) -> str | None:
    """The label that a text answers with: in the last box, behind the last "the answer is", as its first
    word, otherwise the last one that is not denied ("not true")."""
    said = plain(spoken(text))
    any_of = "|".join(sorted(map(re.escape, labels), key=len, reverse=True))
    first = re.compile(rf"[\s*_`'\"“‘(\[{{]*({any_of})(?![\w-])", re.IGNORECASE)
    for place in (boxed(said) or "", *marked(said)):
        if found := first.match(place):
            return _as_written(found[1], labels)
    if found := re.match(rf"{first.pattern}[\s*_`'\"”’)\]}}]*(?:[.,;:!\n]|$)", said, re.IGNORECASE):
        return _as_written(found[1], labels)
    denied = re.compile(rf"(?:\b(?:not|never|no)|n['’]t)\s+(?:necessarily\s+)?(?:{any_of})(?![\w-])", re.I)
    return chosen(*labels)(denied.sub(" ", said))


def _as_written(found: str, labels: tuple[str, ...]) -> str:
    return next(label for label in labels if label.casefold() == found.casefold())


class Labelled(OfRows, ABC):
    """See `Packaged`. `labels`: of which one is a problem's answer."""

    labels: ClassVar[tuple[str, ...]]

    def answer_in(self, _problem: Problem, text: str) -> str | None:
        """See `label_in`."""
        return label_in(text, self.labels)

    def options(self, problem: Problem) -> Options | None:
        """Of the labels, behind the question's facts alone."""
        return Options(f"{problem.data}\nAnswer: ", self.labels, self.labels.index(problem.answer))
