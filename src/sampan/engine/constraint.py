"""What the engine knows of a grammar: which tokens may come next. It sees no text and imports no numerics.

A constraint belongs to one request and has taken exactly the tokens that were sampled for it, each once: what
is computed again (after a preemption, or after a draft that failed) is not sampled again.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")

_LONGEST = 80  # of what an exception says


class Constraint(Protocol):
    """Follows one answer token by token, on the thread that steps the engine."""

    def allowed(self) -> bytes | None:
        """The tokens that may come next, a bit each: token t is bit t % 8 of byte t // 8, and what is beyond
        the end is forbidden. None where everything is allowed. Where the answer may end, the tokens that end
        it are allowed."""

    def accept(self, token: int) -> None:
        """The token that was sampled."""

    def forced(self) -> Sequence[int]:
        """Tokens that probably come next because little else may; the engine tries them as a draft."""

    @property
    def done(self) -> bool:
        """Nothing may follow what was accepted: the answer is whole."""

    @property
    def error(self) -> str | None:
        """Why it cannot go on, for the request's user."""


class Guarded:
    """A constraint whose exceptions become its error, so that they are one request's fault."""

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint
        self._failure: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it raised something: that is no request's fault."""
        return self._failure is not None

    def allowed(self) -> bytes | None:
        return self._ask(self._constraint.allowed, None)

    def accept(self, token: int) -> None:
        self._ask(lambda: self._constraint.accept(token), None)

    def forced(self) -> Sequence[int]:
        return self._ask(self._constraint.forced, ())

    @property
    def done(self) -> bool:
        return self._ask(lambda: self._constraint.done, False)

    @property
    def error(self) -> str | None:
        return self._failure or self._ask(lambda: self._constraint.error, None)

    def _ask(self, question: Callable[[], T], otherwise: T) -> T:
        try:
            return question()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of a library in Rust derives from no Exception
            said = " ".join(str(error).split())[:_LONGEST]
            self._failure = self._failure or f"the grammar failed: {type(error).__name__}: {said}"
            return otherwise


def allows(allowed: bytes, token: int) -> bool:
    """Whether a token's bit is set."""
    byte = token >> 3
    return byte < len(allowed) and bool(allowed[byte] >> (token & 7) & 1)
