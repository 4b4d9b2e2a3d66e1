"""A compiled grammar and the answers that follow it.

llguidance's answers of one grammar share what its terminals have been found to allow. That grows with them up
to a limit, and then no answer can go on. So whoever gets there begins anew, and reads the answer again.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from sampan.core.errors import RequestError
from sampan.core.memory import resident_memory
from sampan.text.grammar.check import on_deep_stack, step_back
from sampan.text.grammar.source import Source, own_limit, shared_limit
from sampan.text.grammar.trial import ENOUGH_S, LEAST, MOST, STEPS, TOO_SLOW, walk
from sampan.text.grammar.vocabulary import Vocabulary, Words

if TYPE_CHECKING:
    from llguidance import LLMatcher

T = TypeVar("T")

# Seconds of processor time: of one mask, and of beginning anew, for which the engine waits; of an answer's
# masks, for each of its tokens; of all walks of the trial.
_MASK_S, _ANEW_S, _MEAN_S, _TRIAL_S = 1.0, 1.0, 0.05, 2.0
_CHEAP_S = 0.05  # to make it once more, in place of keeping what the trial found
_SPARE = 2  # times the limits that it was tried with, for answers that are longer than the trial
_SMALLEST, _A_BYTE = 192 << 10, 16  # bytes of a grammar at least, and for each of its source
_FOUND_A_SECOND = 64 << 20  # bytes that terminals' states take for each second in which they are found
_MOST_FOUND = 20 << 20


class CompiledGrammar:
    """A grammar that is ready. Safe to share between threads; each answer has a constraint of its own.

    Raises `RequestError` for one that no answer can follow. `found_s`: seconds of masks. `spent`: its limits
    are met, and to begin anew takes longer than an engine waits, so it must be compiled again.
    """

    def __init__(self, source: Source, vocabulary: Vocabulary, size: int) -> None:
        before = resident_memory()
        self._source, self._vocabulary = source, vocabulary
        self._door = threading.Lock()
        self._life = 0
        self.spent = False
        self._seconds = 0.0
        self._start = self._made(urgent=False)
        self._first = self._checked_first()
        self._opening = self._checked_opening()
        self._size = max(size, resident_memory() - before, _SMALLEST + _A_BYTE * len(source.text))
        self.found_s = 0.0
        self._try()

    @property
    def size(self) -> int:
        """Bytes that it takes, about: they grow while answers follow it."""
        return self._size + min(_MOST_FOUND, int(self.found_s * _FOUND_A_SECOND))

    def constraint(self) -> "GrammarConstraint":
        """A fresh one, for one answer."""
        with self._door:
            if self.spent:
                self._begin_anew(urgent=False)
            return GrammarConstraint(self, self._start.deep_copy(), self._life)

    def first(self, *, opens: bool) -> bytes:
        """The first mask, which is the same for every answer. `opens`: that opens a text of its own."""
        return self._opening if opens else self._first

    def read(self, token: int, *, opens: bool) -> list[int]:
        """What llguidance takes for a token."""
        return self._vocabulary.opened(token) if opens else [self._vocabulary.words.one(token)]

    def with_twins(self, mask: bytes) -> bytes:
        """A mask of llguidance's with all tokens of the same text."""
        return self._vocabulary.words.with_twins(mask)

    def stopped(self, error: str) -> str:
        """Why an answer cannot go on, for its user."""
        return f"the {self._source.name} stopped the answer: {self._source.explained(error)}"

    def renewed(self, life: int, tokens: int) -> "tuple[LLMatcher, int] | None":
        """The start of a later life than this one, with room for an answer of so many tokens; None where
        that takes too long."""
        with self._door:
            if self._life == life:
                if self._seconds > _ANEW_S:
                    self.spent = True
                    return None
                self._begin_anew(urgent=True, tokens=tokens)
            return self._start.deep_copy(), self._life

    def _begin_anew(self, *, urgent: bool, tokens: int = 0) -> None:
        self._start = self._made(urgent=urgent, spare=_SPARE, tokens=tokens)
        self._life += 1
        self.found_s, self.spent = 0.0, False

    def _made(
        self, *, urgent: bool, spare: int = 1, tokens: int = 0, words: Words | None = None
    ) -> "LLMatcher":
        from llguidance import LLMatcher

        limits = self._source.limits(spare=spare, tokens=tokens)
        known, text = (words or self._vocabulary.words).tokens, self._source.text
        made: list[LLMatcher] = []

        def make() -> None:
            if not urgent:  # and only here: the walks that come then need the interpreter's lock at times
                step_back()
            began = time.thread_time()
            made.append(LLMatcher(known, text, log_level=0, limits=limits))
            self._seconds = max(self._seconds, time.thread_time() - began)

        on_deep_stack(make)
        return made[0]

    def _mask_of(self, start: "LLMatcher") -> bytes:
        mask = start.compute_bitmask()
        error = start.get_error()
        if start.is_error() and not error.startswith("NoExtension"):
            raise self._refusal(self._source.explained(error))
        return bytes(len(mask)) if error else mask

    def _checked_first(self) -> bytes:
        mask = self._mask_of(self._start)
        if not any(mask):
            raise self._refusal("no token of this model may begin an answer")
        return self._vocabulary.words.with_twins(mask)

    def _checked_opening(self) -> bytes:
        words = self._vocabulary.opening
        return (
            self._first
            if words is None
            else words.first(self._mask_of(self._made(urgent=False, words=words)))
        )

    def _try(self) -> None:
        began = time.thread_time()
        for number in range(MOST):
            if number >= LEAST and time.thread_time() - began > ENOUGH_S:
                break
            error = walk(self._start, number, self._vocabulary, began + _TRIAL_S)
            if shared_limit(error):  # of all walks together
                self._start = self._made(urgent=False)
                error = walk(self._start, number, self._vocabulary, began + _TRIAL_S)
            if error:
                raise self._refusal(self._source.explained(error))
        found = time.thread_time() - began
        if found > _CHEAP_S > self._seconds:
            self._start = self._made(urgent=False)
        elif found > _CHEAP_S:
            self.found_s = found

    def _refusal(self, why: str) -> RequestError:
        return RequestError(f"the {self._source.name} cannot be used: {why}")


class GrammarConstraint:
    """One answer's way through a grammar; see `sampan.engine.constraint.Constraint`. `continues`: it goes on
    with its prompt's text, in which a first space counts; to be said before its first token."""

    def __init__(
        self, grammar: CompiledGrammar, matcher: "LLMatcher", life: int, taken: Sequence[int] = ()
    ) -> None:
        self._grammar, self._matcher, self._life = grammar, matcher, life
        self._taken = list(taken)
        self._begun = self.continues = False
        self._renewals = 0
        self._seconds = 0.0
        self.done = False
        self.error: str | None = None

    def allowed(self) -> bytes | None:
        """The tokens that may come next, a bit each."""
        if not self._begun:
            return self._grammar.first(opens=not self.continues)
        mask = self._timed(self._matcher.compute_bitmask)
        if self._begun_anew():
            mask = self._timed(self._matcher.compute_bitmask)
        self._look()
        return self._grammar.with_twins(mask)

    def accept(self, token: int) -> None:
        """The token that was chosen."""
        read = self._grammar.read(token, opens=not self._begun and not self.continues)
        self._begun = True
        self._taken += read
        self._timed(lambda: self._matcher.consume_tokens(read))
        self._begun_anew()
        self._look()

    def forced(self) -> Sequence[int]:
        """Tokens of the text that must come next, as the tokenizer would write it."""
        return self._matcher.compute_ff_tokens()

    def copy(self) -> "GrammarConstraint":
        """The same state, to go on from independently."""
        if self._begun:
            copy = GrammarConstraint(self._grammar, self._matcher.deep_copy(), self._life, self._taken)
        else:
            copy = self._grammar.constraint()
        copy._begun, copy.continues, copy.done, copy.error = (
            self._begun,
            self.continues,
            self.done,
            self.error,
        )
        return copy

    def _begun_anew(self) -> bool:
        """Whether a limit was met, and the answer was read again by a parser that is not at its limits."""
        if not self._matcher.is_error():
            return False
        error = self._matcher.get_error()
        shared = shared_limit(error) and self._renewals <= len(self._taken) // STEPS
        if not shared and not (own_limit(error) and self._life == 0):
            return False
        fresh = self._grammar.renewed(self._life, len(self._taken))
        if fresh is None:
            return False
        self._renewals += 1
        self._matcher, self._life = fresh
        self._timed(lambda: self._matcher.consume_tokens(self._taken))
        return True

    def _timed(self, act: Callable[[], T]) -> T:
        began = time.thread_time()
        result = act()
        taken = time.thread_time() - began
        self._grammar.found_s += taken
        self._seconds += taken
        if taken > _MASK_S or self._seconds > _MASK_S + _MEAN_S * len(self._taken):
            self.error = self.error or self._grammar.stopped(TOO_SLOW)
        return result

    def _look(self) -> None:
        if self._matcher.is_error():
            self._grammar.spent = True  # what it shares with other answers may be at its limits
            self.error = self.error or self._grammar.stopped(self._matcher.get_error())
        else:
            self.done = self._matcher.is_stopped()
