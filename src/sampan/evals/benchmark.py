"""A benchmark: problems in a fixed order, how each is asked, and what a whole answer is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sampan.envs.task import Problem


@dataclass(frozen=True)
class About:
    """Where problems come from. `licence`: as the package that has them states it. `version`: the package's,
    with the start of the data file's sha256; of a task of `envs` its key (see `key_of`)."""

    source: str
    licence: str
    version: str


@dataclass(frozen=True)
class Options:
    """Multiple choice by likelihood: which of the continuations of a context is the likeliest, and which is
    `right`. The space between both is the context's last character, so that a continuation's length is its
    own."""

    context: str
    continuations: tuple[str, ...]
    right: int


class Benchmark(Protocol):
    """`name`: as it was asked for, with its options. `max_tokens`: of an answer, where nobody says otherwise.
    `size`: its problems, None where they have no end."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> About: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def size(self) -> int | None: ...

    def problems(self, seed: int, limit: int | None, /) -> Sequence[Problem]:
        """The first `limit` of an order that is fixed: of a file its own, otherwise the seed's. None: all,
        and `DEFAULT_LIMIT` of those without end. No two have the same key. Raises `FetchError` where
        the data cannot be had."""

    def question(self, problem: Problem, /) -> str:
        """The user's turn."""

    def check(self, problem: Problem, text: str, /) -> float:
        """Of a whole answer, from 0 to 1. Raises `EnvError` where it cannot tell: that is no 0."""

    def answer_in(self, problem: Problem, text: str, /) -> str | None:
        """The answer within the text, as majorities count it; None where there is none."""

    def options(self, problem: Problem, /) -> Options | None:
        """None: no multiple choice."""


DEFAULT_LIMIT = 200
"""Problems of a benchmark without end, where nobody says how many."""
