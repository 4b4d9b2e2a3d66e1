"""Categorical statements (all, no, some, some not) about kinds, and what follows from them.

A thing is a number: bit k says whether it is of kind k. A set of things is a number too: bit i says whether
thing i is in it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import combinations, product


class Form(Enum):
    """By the letters of the tradition."""

    ALL = "A"
    NO = "E"
    SOME = "I"
    SOME_NOT = "O"


_DENIAL = {Form.ALL: Form.SOME_NOT, Form.NO: Form.SOME, Form.SOME: Form.NO, Form.SOME_NOT: Form.ALL}


@dataclass(frozen=True)
class Statement:
    """`subject` and `predicate` are kinds."""

    form: Form
    subject: int
    predicate: int

    @property
    def denial(self) -> "Statement":
        """True exactly where this is false."""
        return Statement(_DENIAL[self.form], self.subject, self.predicate)

    @property
    def exists(self) -> bool:
        """Whether it says that something is there; the others say that something is not."""
        return self.form in (Form.SOME, Form.SOME_NOT)


class Verdict(Enum):
    """What premises make of a conclusion."""

    TRUE = "true"
    FALSE = "false"
    OPEN = "open"


@cache
def things(statement: Statement, kinds: int) -> int:
    """The set that the statement says to have a member, or none."""
    within = statement.form in (Form.NO, Form.SOME)
    return sum(
        1 << thing
        for thing in range(1 << kinds)
        if thing >> statement.subject & 1 and bool(thing >> statement.predicate & 1) == within
    )


@cache
def members(kind: int, kinds: int) -> int:
    """The set of all things of a kind."""
    return sum(1 << thing for thing in range(1 << kinds) if thing >> kind & 1)


def possible(statements: Sequence[Statement], kinds: int, empty: bool) -> bool:
    """Whether all can be true at once. `empty`: whether a kind may have no member."""
    allowed, needed = _bounds(statements, kinds, empty)
    return all(allowed & some for some in needed)


def model(statements: Sequence[Statement], kinds: int, empty: bool) -> tuple[int, ...]:
    """As few things as there can be where all statements are true. `ValueError` where they cannot."""
    allowed, needed = _bounds(statements, kinds, empty)
    there = [thing for thing in range(1 << kinds) if allowed >> thing & 1]
    for count in range(len(needed) + 1):
        for found in combinations(there, count):
            if all(any(some >> thing & 1 for thing in found) for some in needed):
                return found
    raise ValueError("the statements contradict each other")


def _bounds(statements: Sequence[Statement], kinds: int, empty: bool) -> tuple[int, list[int]]:
    """The set of things that may be there, and sets of each of which one must be. One for each is enough,
    and more never help: the other statements only forbid."""
    allowed = (1 << (1 << kinds)) - 1
    for statement in statements:
        if not statement.exists:
            allowed &= ~things(statement, kinds)
    needed = [things(statement, kinds) for statement in statements if statement.exists]
    return allowed, needed if empty else [*needed, *(members(kind, kinds) for kind in range(kinds))]


def verdict(premises: Sequence[Statement], conclusion: Statement, kinds: int, empty: bool) -> Verdict:
    """`ValueError` for premises that contradict each other: from them everything follows."""
    holds = possible([*premises, conclusion], kinds, empty)
    fails = possible([*premises, conclusion.denial], kinds, empty)
    if not holds and not fails:
        raise ValueError("the premises contradict each other")
    if holds and fails:
        return Verdict.OPEN
    return Verdict.TRUE if holds else Verdict.FALSE


@dataclass(frozen=True)
class Argument:
    """Premises, each of which shares a kind with the next, and a conclusion about the first kind and the
    last."""

    premises: tuple[Statement, ...]
    conclusion: Statement

    @property
    def kinds(self) -> int:
        """How many."""
        return len(self.premises) + 1


def arguments(premises: int) -> Iterator[Argument]:
    """All of so many premises. With two these are the 64 moods of the tradition in its 4 figures."""
    for forms in product(Form, repeat=premises + 1):
        for turned in product((False, True), repeat=premises):
            links = zip(forms, turned, range(premises), strict=False)
            said = tuple(Statement(form, *((k + 1, k) if turn else (k, k + 1))) for form, turn, k in links)
            yield Argument(said, Statement(forms[-1], 0, premises))
