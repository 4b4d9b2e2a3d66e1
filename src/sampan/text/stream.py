"""Turns a stream of token ids into text that is safe to show as it comes.

What all `push`es and `finish` return, joined, is what `tokenizer.decode` gives of all ids, cut at the first
stop string: the one that is complete first, and of those complete at the same character the longest. Nothing
is shown that a later token could still change: half a character, or the beginning of a stop string.
"""

import codecs
from collections.abc import Sequence

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
        self._stops = [_Matcher(text) for text in stop]
        self._held = ""
        self.stop_text: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string, `stop_text`, has ended the answer."""
        return self.stop_text is not None

    def push(self, token_id: int) -> str:
        """The text that this token makes safe to show, often none; "" once stopped."""
        if self.stopped or token_id in self._hidden:
            return ""
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
            complete = [stop.text for stop in self._stops if stop.accept(character)]
            if complete:
                self.stop_text = max(complete, key=len)
                return self._release(place - len(self.stop_text), keep=0)
        return self._release(len(self._held), keep=max((stop.matched for stop in self._stops), default=0))

    def _release(self, end: int, *, keep: int) -> str:
        shown, self._held = self._held[: end - keep], self._held[end - keep :] if keep else ""
        return shown


class _Matcher:
    """Finds one string in a stream of characters (Knuth, Morris and Pratt, 1977).

    `matched` is the length of the longest beginning of the string that the stream ends with.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        # _shorter[n]: the longest proper beginning of text[:n] that also ends it
        self._shorter = [0, 0]
        for place in range(1, len(text)):
            self._shorter.append(self._next(self._shorter[place], text[place]))

    def accept(self, character: str) -> bool:
        """Read one character; whether it completes the string."""
        self.matched = self._next(self.matched, character)
        return self.matched == len(self.text)

    def _next(self, matched: int, character: str) -> int:
        while matched and self.text[matched] != character:
            matched = self._shorter[matched]
        return matched + (self.text[matched] == character)
