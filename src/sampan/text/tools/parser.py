"""Finds the calls in an answer while it is streamed.

Text without calls comes out as it went in; the white space around a call is the call's. What began like a
call and is none, because it is malformed or its function unknown, is text, and calls are looked for in it
again. However the answer is cut into pushes, what comes out is, joined, the same.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sampan.text.tools.formats import ToolFormat
from sampan.text.tools.json_prefix import JsonPrefix
from sampan.text.tools.source import Malformed, Reading, Source
from sampan.text.tools.syntax import Head


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


class ToolParser:
    """Reads one answer."""

    def __init__(self, format: ToolFormat, names: Collection[str], *, whole: bool = False) -> None:
        """`names`: the functions that can be called.

        `whole`: deliver a call when its arguments are complete, so that one that breaks off is text in full.
        Without it arguments come as they grow; where they break off the call stays as far as it got, and
        the text goes on with the rest.
        """
        self._syntax = format.syntax
        self._names = frozenset(names)
        self._whole = whole
        self._source = Source()
        self._pieces: list[Piece] = []
        self._calls = 0
        self._bare = self._syntax.bare  # whether a call may begin here with "{" alone
        self._in_call = self._in_tail = False
        self._run = self._read()

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain now, in order; what may be the beginning of a call is held back."""
        self._source.text += text
        next(self._run)
        return self._taken()

    def finish(self) -> list[Piece]:
        """What was held back: an unfinished opening is text."""
        while self._in_call:
            self._run.throw(Malformed())
        if not self._in_tail:
            self._show(len(self._source.text))
        return self._taken()

    def _taken(self) -> list[Piece]:
        taken, self._pieces = self._pieces, []
        return taken

    def _read(self) -> Reading[None]:
        while True:
            opener = yield from self._text()
            self._in_call = True
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
            places = {source.text.find(opener): opener for opener in self._syntax.openers}
            found = min((place for place in places if place >= 0), default=None)
            if found is not None:
                self._show(len(source.text[:found].rstrip()))
                source.position = source.text.index(places[found]) + len(places[found])
                return places[found]
            if not self._bare:
                self._show(len(source.text) - self._unfinished_opener())
            yield

    def _blank(self) -> int:
        """How much of the text may come before a bare call."""
        return len(self._source.text) - len(self._source.text.lstrip(" \t\r\n;" if self._calls else None))

    def _unfinished_opener(self) -> int:
        """How many characters at the end may begin an opener, with the white space before it."""
        text = self._source.text
        longest = max(map(len, self._syntax.openers))
        lengths = range(min(longest - 1, len(text)), 0, -1)
        begun = next((size for size in lengths if self._begins_opener(text[-size:])), 0)
        return len(text) - len(text[: len(text) - begun].rstrip())

    def _begins_opener(self, text: str) -> bool:
        return any(opener.startswith(text) for opener in self._syntax.openers)

    def _show(self, count: int) -> None:
        if count:
            self._pieces.append(TextPiece(self._source.forget(count)))

    def _head(self, opener: str) -> Reading[Head]:
        """What a call must have to be delivered as one."""
        head = yield from self._syntax.head(self._source, opener)
        if head.name not in self._names:
            raise Malformed
        if self._whole and head.arguments is None:
            return Head(head.name, (yield from self._all_arguments()))
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
        if complete:
            yield from self._tail()

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

    def _tail(self) -> Reading[None]:
        self._in_tail = True
        for closer in self._syntax.closers:
            yield from self._source.optional(closer)
        yield from self._source.white()
        self._source.forget(self._source.position)
        self._in_tail = False
