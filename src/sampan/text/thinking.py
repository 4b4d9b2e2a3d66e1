"""Ends an answer's reasoning after so many tokens: the closing tag is forced, and the answer follows.

Tokens count while the block is open, whether the prompt opened it or the answer did. What comes after is the
model's own again. Written as the engine's constraint; it may lie around another, such as a grammar's.
"""

from collections.abc import Sequence
from typing import Protocol

from sampan.text.reasoning import ReasoningSplitter
from sampan.text.stream import TextStream
from sampan.text.tokenizer import Tokenizer

CLOSING = "\n</think>\n\n"
"""What ends the reasoning where a model's authors say nothing else."""


class Inner(Protocol):
    """See `sampan.engine.constraint.Constraint`."""

    def allowed(self) -> bytes | None: ...
    def accept(self, token: int) -> None: ...
    def forced(self) -> Sequence[int]: ...
    @property
    def done(self) -> bool: ...
    @property
    def error(self) -> str | None: ...


class ThinkingBudget:
    """One answer's; see `sampan.engine.constraint.Constraint`. `inside`: the prompt has opened the block.
    `inner`: what else the answer must obey."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        budget: int,
        *,
        inside: bool,
        closing: str = CLOSING,
        inner: Inner | None = None,
    ) -> None:
        self._budget = budget
        self._closing = tokenizer.spell(closing.encode(), special=True)
        self._inner = inner
        self._stream = TextStream(tokenizer)
        self._split = ReasoningSplitter(starts_inside=inside)
        self._left: list[int] = []
        self._spent = 0
        self._over = False
        self._look()

    def allowed(self) -> bytes | None:
        """The closing tag's next token where it is being written."""
        if self._left:
            token = self._left[0]
            return bytes(token >> 3) + bytes([1 << (token & 7)])
        return None if self._inner is None else self._inner.allowed()

    def accept(self, token: int) -> None:
        """The token that was chosen."""
        if self._inner is not None:
            self._inner.accept(token)
        if self._left:
            self._left.pop(0)
        elif not self._over:
            inside = self._split.inside
            self._split.push(self._stream.push(token))
            self._spent += inside and self._split.inside
            self._look()

    def forced(self) -> Sequence[int]:
        """Tokens that certainly come next."""
        return self._left or (() if self._inner is None else self._inner.forced())

    @property
    def done(self) -> bool:
        """Of what else the answer must obey."""
        return self._inner is not None and self._inner.done

    @property
    def error(self) -> str | None:
        """Of what else the answer must obey."""
        return None if self._inner is None else self._inner.error

    def _look(self) -> None:
        """Whether the reasoning is over, or has to be."""
        if self._split.inside and self._spent >= self._budget:
            self._left, self._over = list(self._closing), True
        elif self._split.answers:
            self._over = True
