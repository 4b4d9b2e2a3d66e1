"""Reads a JSON object as it comes and says where it ends, or where it stops being one (RFC 8259)."""

import re
from typing import Literal

MAX_DEPTH = 100  # of lists and objects in one another

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')  # characters that stand for themselves in a string
_WHITE = " \t\n\r"
_ESCAPES = '"\\/bfnrt'
_HEX = "0123456789abcdefABCDEF"
_DIGITS = "0123456789"
_WORDS = {"t": "true", "f": "false", "n": "null"}
# What may come next in a number, by what has come last.
_NUMBER = {
    "-": {"0": "0", **dict.fromkeys("123456789", "1")},
    "0": {".": ".", "e": "e", "E": "e"},
    "1": {**dict.fromkeys(_DIGITS, "1"), ".": ".", "e": "e", "E": "e"},
    ".": dict.fromkeys(_DIGITS, ".0"),
    ".0": {**dict.fromkeys(_DIGITS, ".0"), "e": "e", "E": "e"},
    "e": {**dict.fromkeys(_DIGITS, "e0"), "+": "e+", "-": "e+"},
    "e+": dict.fromkeys(_DIGITS, "e0"),
    "e0": dict.fromkeys(_DIGITS, "e0"),
}
_NUMBER_STARTS = {**_NUMBER["-"], "-": "-"}
_NUMBER_ENDS = ("0", "1", ".0", "e0")

Expected = Literal["start", "key", "key or end", "colon", "value", "value or end", "comma or end", "nothing"]


class JsonPrefix:
    """One object. Every beginning of a text that `read` has accepted is the beginning of valid JSON."""

    def __init__(self) -> None:
        self.expected: Expected = "start"
        self.failed = False
        self._open: list[str] = []  # the closing brackets that are due
        self._string: str | None = None  # "": in a string; otherwise what its escape allows next
        self._is_key = False
        self._word = ""  # the rest of true, false or null
        self._number = ""  # a state of _NUMBER

    @property
    def complete(self) -> bool:
        """Whether the object has ended."""
        return self.expected == "nothing"

    @property
    def depth(self) -> int:
        """How many lists and objects are open."""
        return len(self._open)

    def read(self, text: str, position: int) -> int:
        """Read on at `position`: up to the object's end, a character that cannot be, or the text's end.

        Returns where it stopped. `failed` tells that the character there makes it no JSON, or that
        it opens more than `MAX_DEPTH` levels.
        """
        while position < len(text) and not self.complete:
            if self._string == "" and (plain := _PLAIN.match(text, position)):
                position = plain.end()
            elif self.accept(text[position]):
                position += 1
            else:
                self.failed = True
                break
        return position

    def accept(self, character: str) -> bool:
        """Read one character; False where it cannot follow, and nothing is to be read after it."""
        if self._string is not None:
            return self._in_string(character)
        if self._word:
            return self._in_word(character)
        if self._number:
            following = _NUMBER[self._number].get(character)
            if following is not None:
                self._number = following
                return True
            if self._number not in _NUMBER_ENDS:
                return False
            self._number = ""
        return character in _WHITE or self._between(character)

    def _in_string(self, character: str) -> bool:
        if self._string == "":
            if character == '"':
                self._string = None
                self.expected = "colon" if self._is_key else "comma or end"
            elif character == "\\":
                self._string = "escape"
            return character >= " "
        if self._string == "escape":
            self._string = "uuuu" if character == "u" else ""
            return character == "u" or character in _ESCAPES
        self._string = (self._string or "")[1:]
        return character in _HEX

    def _in_word(self, character: str) -> bool:
        fits = self._word.startswith(character)
        self._word = self._word[1:]
        return fits

    def _between(self, character: str) -> bool:
        match self.expected:
            case "start":
                return character == "{" and self._opened("}")
            case "key" | "key or end" if character == '"':
                self._string, self._is_key = "", True
                return True
            case "colon" if character == ":":
                self.expected = "value"
                return True
            case "comma or end" if character == ",":
                self.expected = "key" if self._open[-1] == "}" else "value"
                return True
            case "key or end" | "value or end" | "comma or end" if character == self._open[-1]:
                self._open.pop()
                self.expected = "comma or end" if self._open else "nothing"
                return True
            case "value" | "value or end":
                return self._value(character)
        return False

    def _value(self, character: str) -> bool:
        if character in "{[":
            return self._opened("}" if character == "{" else "]")
        self.expected = "comma or end"
        if character == '"':
            self._string, self._is_key = "", False
        elif character in _WORDS:
            self._word = _WORDS[character][1:]
        elif character in _NUMBER_STARTS:
            self._number = _NUMBER_STARTS[character]
        else:
            return False
        return True

    def _opened(self, closing: str) -> bool:
        self._open.append(closing)
        self.expected = "key or end" if closing == "}" else "value or end"
        return len(self._open) <= MAX_DEPTH
