"""Finds the calls in an answer while it is streamed.

Text without calls comes out as it went in; the white space around a call is the call's. What began like a
call and is none, because it is malformed or its function unknown, is text, and calls are looked for in it
again. However the answer is cut into pushes, what comes out is, joined, the same.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from sampan.text.tools.formats import ToolFormat
from sampan.text.tools.json_prefix import JsonPrefix
from sampan.text.tools.source import Malformed, Reading, Source
from sampan.text.tools.syntax import Head

_NAME = re.compile(r'"name"\s*:\s*("(?:[^"\\]|\\.)*"?)')


@dataclass(frozen=True)
class TextPiece:
    """Ordinary text, never empty."""

    text: str


@dataclass(frozen=True)
class CallPiece:
    """A part of call `index`, counted from 0. Its first part alone has the `name`.

    The `arguments` of all its parts, joined, are JSON text as the model wrote it, or a beginning of some.
    """

    index: int
    name: str | None = None
    arguments: str = ""


Piece = TextPiece | CallPiece
Loose = Literal["", "first", "lines"]
"""At the beginning of an answer and behind another such call, or of any line; nowhere."""


class ToolParser:
    """Reads one answer."""

    def __init__(
        self,
        format: ToolFormat,
        names: Collection[str],
        *,
        whole: bool = False,
        loose: Loose = "",
        forced: bool = False,
    ) -> None:
        """`names`: the functions that can be called. `loose`: where calls are found without their opener,
        too. `forced`: there is nothing but calls.

        `whole`: deliver a call when its arguments are complete, so that one that breaks off is text in full.
        Without it arguments come as they grow; where they break off the call stays as far as it got, and
        the text goes on with the rest.
        """
        self._syntax = format.syntax
        self._names = frozenset(names)
        self._whole, self._forced = whole, forced
        self._loose, self._first_only = self._syntax.loose_openers if loose else (), loose == "first"
        self._openers = self._syntax.openers + self._loose
        self._source = Source()
        self._pieces: list[Piece] = []
        self._calls = 0
        self._bare = self._syntax.bare  # whether a call may begin here with "{" alone
        self._in_call = self._in_tail = False
        self._opener = ""  # of the call that is being read
        self._fresh = True  # whether no text has come since the start, or since the last call
        self._due: tuple[str, ...] = ()  # closers of the last call that may come after the next
        self._run = self._read()

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain now, in order; what may be the beginning of a call is held back."""
        self._source.text += text
        next(self._run)
        return self._taken()

    def finish(self, *, cut: bool = False) -> list[Piece]:
        """What was held back: an unfinished opening is text, or nothing in an answer that was `cut` short."""
        while self._in_call and not (cut and self._begun()):
            self._run.throw(Malformed())
        if not self._in_call and not self._in_tail:
            self._show(len(self._source.text) - (self._cut_off() if cut else 0))
        return self._taken()

    def _begun(self) -> bool:
        """Whether what has come of a call is one for certain."""
        if self._forced or self._opener in self._syntax.openers:
            return True
        name = _NAME.search(self._source.text)
        return name is not None and any(json.dumps(each).startswith(name[1]) for each in self._names)

    def _cut_off(self) -> int:
        """How many characters at the end belong to a call that has not come."""
        text = self._source.text
        if self._forced or (self._bare and self._calls):
            return len(text)
        begun = _begun_by(text, self._syntax.openers)
        return len(text) - len(text[: len(text) - begun].rstrip()) if begun else 0

    def _taken(self) -> list[Piece]:
        taken, self._pieces = self._pieces, []
        return taken

    def _read(self) -> Reading[None]:
        while True:
            opener = yield from self._text()
            self._in_call, self._opener = True, opener
            try:
                head = yield from self._head(opener)
            except Malformed:
                self._give_back(opener)
            else:
                yield from self._deliver(head)

    def _text(self) -> Reading[str]:
        """Show text up to a call; the opener it begins with, after which the source then stands."""
        source = self._source
        while True:
            if self._bare and (blank := self._blank()) < len(source.text):
                self._bare = False
                if source.text[blank] == "{":
                    source.position = blank
                    return "{"
            places = {self._place(opener): opener for opener in self._openers}
            found = min((place for place in places if place >= 0), default=None)
            if found is not None:
                opener = places[found]
                shown = len(source.text[:found].rstrip())
                self._show(shown)
                source.position = found - shown + (len(opener) if opener != "{" else 0)
                return opener
            if not self._bare:
                self._show(len(source.text) - self._unfinished_opener())
            yield

    def _place(self, opener: str) -> int:
        """Where a call begins with this opener; -1 for nowhere."""
        text = self._source.text
        place = text.find(opener)
        while place >= 0 and opener in self._loose and not self._begins_line(text[:place]):
            place = text.find(opener, place + 1)
        return place

    def _begins_line(self, before: str) -> bool:
        blank = before[len(before.rstrip()) :]
        return (len(blank) == len(before) and self._fresh) or ("\n" in blank and not self._first_only)

    def _blank(self) -> int:
        """How much of the text may come before a bare call."""
        return len(self._source.text) - len(self._source.text.lstrip(" \t\r\n;" if self._calls else None))

    def _unfinished_opener(self) -> int:
        """How many characters at the end may begin an opener, with the white space before it."""
        text = self._source.text
        return len(text) - len(text[: len(text) - _begun_by(text, self._openers)].rstrip())

    def _show(self, count: int) -> None:
        if count:
            self._pieces.append(TextPiece(self._source.forget(count)))
            self._fresh, self._due = False, ()

    def _head(self, opener: str) -> Reading[Head]:
        """What a call must have to be delivered as one."""
        read = self._syntax.loose_head if opener in self._loose else self._syntax.head
        assert read is not None
        head = yield from read(self._source, opener)
        if head.name not in self._names:
            raise Malformed
        if self._whole and head.arguments is None:
            return replace(head, arguments=(yield from self._all_arguments()))
        return head

    def _give_back(self, opener: str) -> None:
        """It was no call: its opener is text, and what follows is read again."""
        self._in_call = self._bare = False
        self._source.position = 0
        self._show(self._source.text.index(opener) + len(opener))

    def _deliver(self, head: Head) -> Reading[None]:
        self._in_call = False
        self._source.forget(self._source.position)
        self._pieces.append(CallPiece(self._calls, head.name, head.arguments or ""))
        complete = head.arguments is not None or (yield from self._growing_arguments())
        self._calls += 1
        self._bare = self._syntax.bare and complete
        self._fresh = complete and (self._opener in self._loose or not self._first_only)
        if complete:
            yield from self._tail((*head.closers, *self._due) or self._syntax.closers)

    def _all_arguments(self) -> Reading[str]:
        source, scanner = self._source, JsonPrefix()
        start = source.position
        while not scanner.complete:
            source.position = scanner.read(source.text, source.position)
            if scanner.failed:
                raise Malformed
            if not scanner.complete:
                yield
        return source.text[start : source.position]

    def _growing_arguments(self) -> Reading[bool]:
        """Deliver arguments as they come; whether they were whole."""
        scanner = JsonPrefix()
        while not scanner.complete:
            if grown := self._source.forget(scanner.read(self._source.text, 0)):
                self._pieces.append(CallPiece(self._calls, None, grown))
            if scanner.failed:
                return False
            if not scanner.complete:
                yield
        return True

    def _tail(self, closers: tuple[str, ...]) -> Reading[None]:
        self._in_tail, self._due = True, closers[1:] if closers is not self._syntax.closers else ()
        for closer in closers:
            if (yield from self._source.optional(closer)):
                self._due = tuple(each for each in self._due if each != closer)
        yield from self._source.white()
        self._source.forget(self._source.position)
        self._in_tail = False


def _begun_by(text: str, openers: Collection[str]) -> int:
    """How many characters at the end may begin an opener."""
    longest = max(map(len, openers))
    lengths = range(min(longest - 1, len(text)), 0, -1)
    return next((size for size in lengths if any(each.startswith(text[-size:]) for each in openers)), 0)
