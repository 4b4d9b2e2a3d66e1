"""What the ways of writing calls have in common: each is a `Syntax`, data for the most part."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sampan.core.types import Call
from sampan.text.tools.source import Reading, Source


@dataclass(frozen=True)
class Head:
    """What comes before a call's arguments; they follow where they are not in `arguments` already.

    `closers`: what may follow them, where it is not what the syntax says.
    """

    name: str
    arguments: str | None = None
    closers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Syntax:
    """One way of writing calls: `begin`, one or more calls with `between` each two of them, `end`.

    A call is `before`, with the function's name for `NAME` (in JSON for `"NAME"`), the arguments and `after`.
    `openers`: texts that only a call begins with. `bare`: a call may also begin an answer, or follow
    another, with `{` alone. `head`: reads a call after its opener, which it is given, up to the arguments.
    `closers`: what may follow them, each optional. `loose_openers`: texts that a call begins a line with
    where a model forgets the opener; `loose_head` reads on behind them. `markers`: the texts that a
    vocabulary may have as control tokens. `silence`: the content that templates expect of a message that
    only calls; some ask whether there is one at all, others search it.
    """

    name: str
    head: Callable[[Source, str], Reading[Head]]
    before: str
    after: str
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    markers: tuple[str, ...] = ()
    begin: str = ""
    between: str = "\n"
    end: str = ""
    bare: bool = False
    loose_openers: tuple[str, ...] = ()
    loose_head: Callable[[Source, str], Reading[Head]] | None = None
    silence: str | None = ""

    @property
    def opening(self) -> str:
        """What every call begins with, up to the function's name."""
        return self.before.partition(self._mark)[0]

    def before_of(self, name: str) -> str:
        """What comes before the arguments of a call of the function `name`."""
        quoted = json.dumps(name, ensure_ascii=False)
        return self.before.replace(self._mark, name if self._mark == "NAME" else quoted)

    @property
    def _mark(self) -> str:
        return '"NAME"' if '"NAME"' in self.before else "NAME"

    def write(self, calls: Sequence[Call]) -> str:
        """The text of these calls."""
        written = (self.before_of(call.name) + call.arguments + self.after for call in calls)
        return self.begin + self.between.join(written) + self.end
