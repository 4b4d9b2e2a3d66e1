"""Keeps the texts of a conversation from speaking as its template.

A user who writes a control token, or a tool that gives one back, must not end the turn and open another. So
what they write is hidden while the template renders, and is plain text when the prompt is encoded.
"""

import re
import secrets
from collections.abc import Mapping
from typing import Any

from sampan.text.tokenizer import Tokenizer


class Veil:
    """Of one prompt."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._nonce = secrets.token_hex(8)
        self._hidden: list[str] = []

    def over(self, value: Any) -> Any:
        """A copy with a sign in the place of every control token that is written in it."""
        if isinstance(value, str):
            control = self._tokenizer.control
            return value if control is None else control.sub(self._hide, value)
        if isinstance(value, Mapping):
            return {self.over(name): self.over(item) for name, item in value.items()}
        return [self.over(item) for item in value] if isinstance(value, list | tuple) else value

    def lifted(self, prompt: str) -> str:
        """A rendered prompt with what was hidden."""
        return "".join(text for text, _ in self._pieces(prompt))

    def encode(self, prompt: str) -> list[int]:
        """The ids of a rendered prompt: control tokens are the template's alone."""
        if not self._hidden:
            return self._tokenizer.encode(prompt, add_bos=False)
        marked = (
            text if hidden else self._tokenizer.with_marks(text) for text, hidden in self._pieces(prompt)
        )
        return self._tokenizer.encode_marked("".join(marked))

    def _pieces(self, prompt: str) -> list[tuple[str, bool]]:
        """In turn what the template wrote, and what was hidden from it."""
        cut = re.split(f"\ue000{self._nonce}:([0-9]+)\ue001", prompt)
        return [
            (self._hidden[int(piece)], True) if place % 2 else (piece, False)
            for place, piece in enumerate(cut)
        ]

    def _hide(self, match: re.Match[str]) -> str:
        self._hidden.append(match.group())
        return f"\ue000{self._nonce}:{len(self._hidden) - 1}\ue001"
