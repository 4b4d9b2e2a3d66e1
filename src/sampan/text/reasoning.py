"""Splits an answer into its reasoning and its text, while it is streamed.

Reasoning models (DeepSeek-R1, QwQ, Qwen3) write one block between `<think>` and `</think>` and then the
answer. The block is recognised at the start of the answer only: a tag further on is text. Joined, the
pieces are the answer without its two tags.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["reasoning", "text"]


@dataclass(frozen=True)
class Piece:
    """A part of an answer, never empty."""

    kind: Kind
    text: str


def starts_inside_reasoning(prompt: str, *, open_tag: str = "<think>") -> bool:
    """Whether a rendered prompt ends with an open tag, as DeepSeek-R1's template does."""
    return prompt.rstrip().endswith(open_tag)


class ReasoningSplitter:
    """Splits the text of one answer; a tag may be spread over any number of pushes."""

    def __init__(self, open: str = "<think>", close: str = "</think>", starts_inside: bool = False) -> None:
        """`starts_inside`: the prompt has opened the block already."""
        self._open = open
        self._close = close
        self._awaits_open = not starts_inside
        self._inside = starts_inside
        self._held = ""

    @property
    def inside(self) -> bool:
        """Whether the block is open."""
        return self._inside

    @property
    def answers(self) -> bool:
        """Whether the block is closed, or there is none: all that comes is text."""
        return not self._inside and not self._awaits_open

    def push(self, text: str) -> list[Piece]:
        """The pieces that are certain now, in order; a possible beginning of a tag is held back."""
        self._held += text
        pieces: list[Piece] = []
        if self._awaits_open:
            pieces += self._look_for_open()
        if self._inside:
            pieces += self._look_for_close()
        if not self._awaits_open and not self._inside:
            pieces += self._take("text", len(self._held))
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back: an unfinished tag is ordinary text."""
        return self._take("reasoning" if self._inside else "text", len(self._held))

    def _look_for_open(self) -> list[Piece]:
        white = len(self._held) - len(self._held.lstrip())
        pieces = self._take("text", white)
        if self._held.startswith(self._open):
            self._held = self._held[len(self._open) :]
            self._awaits_open, self._inside = False, True
        elif not self._open.startswith(self._held):
            self._awaits_open = False
        return pieces

    def _look_for_close(self) -> list[Piece]:
        end = self._held.find(self._close)
        if end < 0:
            return self._take("reasoning", len(self._held) - self._unfinished_close())
        pieces = self._take("reasoning", end)
        self._held = self._held[len(self._close) :]
        self._inside = False
        return pieces

    def _unfinished_close(self) -> int:
        """How many characters at the end of what is held may begin the closing tag."""
        lengths = range(min(len(self._close) - 1, len(self._held)), 0, -1)
        return next((length for length in lengths if self._held.endswith(self._close[:length])), 0)

    def _take(self, kind: Kind, count: int) -> list[Piece]:
        taken, self._held = self._held[:count], self._held[count:]
        return [Piece(kind, taken)] if taken else []
