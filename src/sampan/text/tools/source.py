"""The text of an answer as it comes, for code that reads it as if it were all there.

A reading is a generator: it yields where it needs more text, and is resumed when there is some.
"""

import json
from collections.abc import Generator, Sequence
from typing import TypeVar

_T = TypeVar("_T")
Reading = Generator[None, None, _T]


class Malformed(Exception):
    """What began like a call is none."""


class Source:
    """The part of an answer that is not delivered yet. `position`: how far it is read."""

    def __init__(self) -> None:
        self.text = ""
        self.position = 0

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to read for now."""
        return self.position >= len(self.text)

    def forget(self, count: int) -> str:
        """Take the first `count` characters out."""
        taken, self.text = self.text[:count], self.text[count:]
        self.position = max(self.position - count, 0)
        return taken

    def peek(self) -> Reading[str]:
        """The next character, which stays."""
        while self.exhausted:
            yield
        return self.text[self.position]

    def white(self) -> Reading[None]:
        """Pass over white space."""
        while (yield from self.peek()).isspace():
            self.position += 1

    def optional(self, literal: str) -> Reading[bool]:
        """Pass over white space and `literal`, or over neither; whether it was there."""
        start = self.position
        yield from self.white()
        for character in literal:
            if (yield from self.peek()) != character:
                self.position = start
                return False
            self.position += 1
        return True

    def one_of(self, literals: Sequence[str]) -> Reading[str]:
        """Pass over white space and the first of these that is there; "" for none."""
        for literal in literals:
            if (yield from self.optional(literal)):
                return literal
        return ""

    def string(self, longest: int) -> Reading[str]:
        """Pass over white space and a JSON string; its text. `Malformed` where it is none, or longer."""
        yield from self.required('"')
        start = self.position - 1
        while (yield from self.peek()) != '"':
            self.position += 2 if self.text[self.position] == "\\" else 1
            if self.position - start > longest:
                raise Malformed
        self.position += 1
        try:
            text: str = json.loads(self.text[start : self.position])
        except ValueError as error:
            raise Malformed from error
        return text

    def required(self, literal: str) -> Reading[None]:
        """Pass over white space and `literal`; `Malformed` where it is something else."""
        if not (yield from self.optional(literal)):
            raise Malformed

    def until(self, end: str, longest: int) -> Reading[str]:
        """The text before `end`, which is passed over; `Malformed` if there is none within `longest`."""
        start = self.position
        while (found := self.text.find(end, start)) < 0:
            if len(self.text) - start > longest + len(end):
                raise Malformed
            yield
        if found - start > longest:
            raise Malformed
        self.position = found + len(end)
        return self.text[start:found]
