"""Tasks whose answer is one of a few words."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from random import Random

from sampan.core.errors import UsageError, quoted
from sampan.envs.answers import chosen
from sampan.envs.drawn import drawn
from sampan.envs.rewards import Extract
from sampan.envs.task import Problem, Split


class Labelled(ABC):
    """See `Task`. Each of `labels` is right as often as any other, in both splits. `options`: all that
    the problems depend on; `hint`: what each question ends with."""

    def __init__(self, task: str, labels: Sequence[str], hint: str, options: Mapping[str, object]) -> None:
        if isinstance(labels, str) or len({label.casefold() for label in labels}) != len(labels):
            raise UsageError(f"{task}: labels are {quoted(labels)}: give different words")
        if not isinstance(options["plain"], bool):
            raise UsageError(f"{task}: plain is {quoted(options['plain'])}: give true or false")
        self.labels, self.hint = tuple(labels), hint
        told = {**options, "labels": self.labels, "hint": hint}
        self.name = f"{task} {json.dumps(told, sort_keys=True)}"

    @property
    def extract(self) -> Extract:
        """The last of the labels that a text has."""
        return chosen(*self.labels)

    def problems(self, split: Split, seed: int, count: int) -> Sequence[Problem]:
        """See `Task`."""
        return drawn(self.name, self._draw, split, seed, count)

    def check(self, problem: Problem, answer: str) -> float:
        """Whether it is the label, in capitals or not."""
        return float(answer.strip().casefold() == problem.answer.casefold())

    def _draw(self, random: Random, number: int) -> Problem:
        label = number % len(self.labels)
        question, data = self._question(random, label)
        return Problem(question + self.hint, self.labels[label], data)

    @abstractmethod
    def _question(self, random: Random, label: int) -> tuple[str, object]:
        """A question with this label's number for its answer, and what it was made of."""

    @property
    def _choice(self) -> str:
        """Of the labels, as a question ends with it."""
        return f"Answer {', '.join(self.labels[:-1])} or {self.labels[-1]}."


def sentence(clause: str) -> str:
    """With a capital and a full stop."""
    return f"{clause[0].upper()}{clause[1:]}."
