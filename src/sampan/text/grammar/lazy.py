"""Free text in which a call, once begun, is held to its grammar."""

from collections.abc import Sequence

from sampan.text.grammar.parser import GrammarConstraint
from sampan.text.tokenizer import Tokenizer

_THOUGHT = (b"<think>", b"</think>")


class LazyConstraint:
    """One answer's way; see `sampan.engine.constraint.Constraint`. Everything is allowed until the text ends
    with `trigger`, what `held` says then, until that is whole, and so on. What stands in a block of reasoning
    begins nothing. `held`: None where the grammar cannot be used; then, and after an error of it, the answer
    is free.
    """

    done = False
    error: str | None = None

    def __init__(
        self, tokenizer: Tokenizer, trigger: bytes, held: GrammarConstraint | None, *, thinking: bool
    ) -> None:
        self._tokenizer, self._trigger, self._held = tokenizer, trigger, held
        self._thinks = thinking
        self._seen = b""
        self._inner: GrammarConstraint | None = None
        self.continues = False

    def allowed(self) -> bytes | None:
        """The tokens that may come next, a bit each; None for all."""
        if self._inner is None:
            return None
        allowed = self._inner.allowed()
        return allowed if self._goes_on() else None

    def accept(self, token: int) -> None:
        """The token that was chosen."""
        if self._inner is not None:
            self._inner.accept(token)
            self._goes_on()
        elif self._held is not None:
            self._read(self._tokenizer.token_bytes(token))

    def forced(self) -> Sequence[int]:
        """Tokens that must come next."""
        return () if self._inner is None else self._inner.forced()

    def copy(self) -> "LazyConstraint":
        """The same state, to go on from independently."""
        held = None if self._held is None else self._held.copy()
        copy = LazyConstraint(self._tokenizer, self._trigger, held, thinking=self._thinks)
        copy._seen, copy.continues = self._seen, self.continues
        copy._inner = None if self._inner is None else self._inner.copy()
        return copy

    def _read(self, data: bytes) -> None:
        """More text. What a token has behind the trigger is the beginning of the call."""
        self._seen += data
        while (place := self._next()) is not None:
            mark, end = place
            rest, self._seen = self._seen[end:], self._seen[end:]
            if mark in _THOUGHT:
                self._thinks = mark == _THOUGHT[0]
            elif not self._thinks:
                self._begin(rest)
                return
        longest = max(map(len, (*_THOUGHT, self._trigger)))
        self._seen = self._seen[-longest + 1 :]

    def _next(self) -> tuple[bytes, int] | None:
        """The first mark in what was read, and where it ends."""
        places = [(self._seen.find(mark), mark) for mark in (*_THOUGHT, self._trigger)]
        found = [(at, mark) for at, mark in places if at >= 0]
        if not found:
            return None
        at, mark = min(found)
        return mark, at + len(mark)

    def _begin(self, data: bytes) -> None:
        assert self._held is not None
        self._inner, self._seen = self._held.copy(), b""
        self._inner.continues = True
        for token in self._tokenizer.spell(data) if data else ():
            self._inner.accept(token)
        self._goes_on()

    def _goes_on(self) -> bool:
        """Whether the call does; behind it all is free again."""
        inner = self._inner
        if inner is not None and (inner.done or inner.error is not None):
            self._inner = None
        return self._inner is not None
