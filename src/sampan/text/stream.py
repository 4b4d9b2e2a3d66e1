"""Turns a stream of token ids into text that is safe to show as it comes.

What all `push`es and `finish` return, joined, is what `tokenizer.decode` gives of all ids, cut at the first
stop string: the one that is complete first, and of those complete at the same character the longest. Nothing
is shown that a later token could still change: half a character, or the beginning of a stop string.

A control token in a stop string is met by the token too, which is not shown.
"""

import codecs
from collections.abc import Sequence
from itertools import accumulate

from sampan.core.errors import RequestError
from sampan.text.tokenizer import Tokenizer


class TextStream:
    """The text of one answer, token by token; the work for a token does not grow with the text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        shown: frozenset[int] = frozenset(),
        continues: bool = False,
    ) -> None:
        """`stop`: strings that end the answer and are not part of it; an empty one is a `RequestError`.

        `shown`: control tokens that are text here. `continues`: see `Tokenizer.continues`.
        """
        if "" in stop:
            raise RequestError("a stop string is empty: it would end every answer before it begins")
        self._tokenizer = tokenizer
        self._hidden = tokenizer.special_ids - shown if shown else tokenizer.special_ids
        self._spaces_to_strip = 0 if continues else tokenizer.strip_left
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = [matcher for text in stop for matcher in _matchers(text, tokenizer)]
        self._held = ""
        self.stop_text: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string, `stop_text`, has ended the answer."""
        return self.stop_text is not None

    def push(self, token_id: int) -> str:
        """The text that this token makes safe to show, often none; "" once stopped."""
        if self.stopped:
            return ""
        if token_id in self._hidden:
            return self._meet(token_id) if self._stops else ""
        return self._show(self._utf8.decode(self._strip(self._tokenizer.token_bytes(token_id))))

    def finish(self) -> str:
        """What was held back; bytes of a character that never came in full become U+FFFD."""
        shown = self._show(self._utf8.decode(b"", final=True)) + self._held
        self._held = ""
        return shown

    def _strip(self, data: bytes) -> bytes:
        while self._spaces_to_strip and data:
            if not data.startswith(b" "):
                self._spaces_to_strip = 0
            else:
                self._spaces_to_strip -= 1
                data = data[1:]
        return data

    def _show(self, text: str) -> str:
        if self.stopped:
            return ""
        start = len(self._held)
        self._held += text
        for place, character in enumerate(text, start + 1) if self._stops else ():
            if complete := [stop for stop in self._stops if stop.accept(character)]:
                return self._stop(complete, place)
        return self._go_on()

    def _meet(self, token: int) -> str:
        """A control token, which is no text."""
        if complete := [stop for stop in self._stops if stop.controls and stop.accept(token)]:
            return self._stop(complete, len(self._held))
        return self._go_on()

    def _stop(self, complete: "list[_Matcher]", end: int) -> str:
        longest = max(complete, key=lambda stop: stop.shown)
        self.stop_text = longest.text
        return self._release(end - longest.shown, keep=0)

    def _go_on(self) -> str:
        return self._release(len(self._held), keep=max((stop.shown for stop in self._stops), default=0))

    def _release(self, end: int, *, keep: int) -> str:
        shown, self._held = self._held[: end - keep], self._held[end - keep :] if keep else ""
        return shown


def _matchers(text: str, tokenizer: Tokenizer) -> "list[_Matcher]":
    """What finds a stop string as text and, where it has control tokens, with these as tokens."""
    parts = tokenizer.control.split(text) if tokenizer.control else [text]
    symbols: list[str | int] = []
    for place, part in enumerate(parts):
        symbols += [tokenizer.control_ids[part]] if place % 2 else list(part)
    return [_Matcher(text, list(text))] + ([_Matcher(text, symbols)] if len(parts) > 1 else [])


class _Matcher:
    """Finds one string in a stream of characters and control tokens (Knuth, Morris and Pratt, 1977).

    `symbols`: what the string is made of. `shown`: characters of its longest beginning that the stream ends
    with.
    """

    def __init__(self, text: str, symbols: list[str | int]) -> None:
        self.text = text
        self.controls = any(isinstance(symbol, int) for symbol in symbols)
        self._symbols = symbols
        self._matched = 0
        self._characters = [0, *accumulate(int(isinstance(symbol, str)) for symbol in symbols)]
        # _shorter[n]: the longest proper beginning of symbols[:n] that also ends it
        self._shorter = [0, 0]
        for place in range(1, len(symbols)):
            self._shorter.append(self._next(self._shorter[place], symbols[place]))

    @property
    def shown(self) -> int:
        return self._characters[self._matched]

    def accept(self, symbol: str | int) -> bool:
        """Read one; whether it completes the string."""
        self._matched = self._next(self._matched, symbol)
        return self._matched == len(self._symbols)

    def _next(self, matched: int, symbol: str | int) -> int:
        while matched and self._symbols[matched] != symbol:
            matched = self._shorter[matched]
        return matched + (self._symbols[matched] == symbol)
