"""Grammars as masks over a tokenizer's vocabulary, by llguidance, imported when it is needed.

A compiled grammar follows an answer byte by byte, however its tokens cut it, so that a token is allowed where
its bytes can go on to a whole answer. Control tokens are no text and never allowed, except those that end an
answer, where it may end.
"""

import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from weakref import WeakValueDictionary

from sampan.core.errors import RequestError
from sampan.core.memory import give_back_freed_memory, megabytes
from sampan.core.types import Grammar
from sampan.text.grammar.check import PATIENCE, Checker, GrammarsBusy, too_busy
from sampan.text.grammar.lazy import LazyConstraint
from sampan.text.grammar.parser import CompiledGrammar, GrammarConstraint
from sampan.text.grammar.source import MAX_BYTES, MAX_CHOICES, Source, read_grammar
from sampan.text.grammar.vocabulary import Vocabulary
from sampan.text.tokenizer import Tokenizer

__all__ = [
    "MAX_BYTES",
    "MAX_CHOICES",
    "AnyConstraint",
    "GrammarCompiler",
    "GrammarConstraint",
    "GrammarsBusy",
]

_COMPILE_S = 5.0
_AT_ONCE = 2
_WAIT_S = 10.0
_START_S = 30.0  # of the process that checks, and of the vocabulary
_KEPT_BYTES = 128 << 20
_USED_BYTES = 512 << 20
_MOST_REFUSED = 256  # that are not tried again
_GIVEN_BACK = 16 << 20

Key = tuple[Grammar, bool]
AnyConstraint = GrammarConstraint | LazyConstraint


class GrammarCompiler:
    """Compiles grammars for one tokenizer. Safe to share between threads.

    `seconds`: of processor time that compiling may take; a grammar that takes longer is refused. `kept`:
    bytes of compiled grammars that are kept for the next time. `used`: bytes of all that are alive, beyond
    which no other is compiled.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        seconds: float = _COMPILE_S,
        kept: int = _KEPT_BYTES,
        used: int = _USED_BYTES,
    ) -> None:
        self.tokenizer = tokenizer
        self._seconds, self._most_kept, self._most_used = seconds, kept, used
        self._kept: OrderedDict[Key, CompiledGrammar] = OrderedDict()
        self._alive: WeakValueDictionary[Key, CompiledGrammar] = WeakValueDictionary()
        self._refused: OrderedDict[Key, None] = OrderedDict()
        self._made: Vocabulary | None = None
        self._checkers: list[Checker] = []
        self._turns = threading.Semaphore(_AT_ONCE)
        self._door = threading.Lock()

    def compile(self, grammar: Grammar, *, thinking: bool = False) -> AnyConstraint:
        """A fresh constraint, for one answer. It takes milliseconds, the first one a second; call it where
        nobody waits. While a constraint is alive, or a copy of it, its grammar is not compiled again.

        `thinking`: the prompt has opened a block of reasoning, and the grammar begins behind it. Raises
        `RequestError` for a grammar that is wrong, not supported, too large or too complex; `GrammarsBusy`.
        """
        if grammar.after:
            return self._lazy(grammar, thinking)
        key = grammar, thinking
        return (self._find(key) or self._new(key)).constraint()

    def _lazy(self, grammar: Grammar, thinking: bool) -> LazyConstraint:
        """Of a grammar that begins where a text has come."""
        key = replace(grammar, after=""), False
        held = None
        if key not in self._refused:
            try:
                held = (self._find(key) or self._new(key)).constraint()
            except GrammarsBusy:
                pass
            except RequestError:
                with self._door:
                    self._refused[key] = None
                    while len(self._refused) > _MOST_REFUSED:
                        self._refused.popitem(last=False)
        return LazyConstraint(self.tokenizer, grammar.after.encode(), held, thinking=thinking)

    def known(self, grammar: Grammar, thinking: bool = False) -> bool:
        """Whether to compile it takes no time now."""
        key = (replace(grammar, after=""), False) if grammar.after else (grammar, thinking)
        with self._door:
            found = self._alive.get(key)
            return key in self._refused if found is None else not found.spent

    def _find(self, key: Key) -> CompiledGrammar | None:
        with self._door:
            found = self._alive.get(key)
            if found is not None and found.spent:  # it is compiled anew; who follows it still holds it
                self._kept.pop(key, None)
                self._alive.pop(key, None)
                return None
            if key in self._kept:
                self._kept.move_to_end(key)
                return found
        if found is not None:
            self._keep(key, found)
        return found

    def _new(self, key: Key) -> CompiledGrammar:
        source = read_grammar(*key)
        self._make_room()
        if not self._turns.acquire(timeout=_WAIT_S):
            raise GrammarsBusy(f"{_AT_ONCE} other grammars are being compiled: try again later")
        found: list[CompiledGrammar | Exception] = []

        def work() -> None:
            try:
                grammar = self._find(key) or self._compiled(source)
                self._keep(key, grammar)  # before the turn goes on: the next may wait for the same grammar
                found.append(grammar)
            except Exception as error:
                found.append(error)
            finally:
                self._turns.release()  # not before: what cannot be stopped keeps others from starting

        thread = threading.Thread(target=work, name="sampan-grammars", daemon=True)
        thread.start()
        thread.join(_START_S + 2 * PATIENCE * self._seconds)
        if not found:
            raise too_busy(source)
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def _compiled(self, source: Source) -> CompiledGrammar:
        vocabulary = self._vocabulary()
        size = self._check(source, vocabulary)
        for part in source.parts:
            CompiledGrammar(part, vocabulary, 0)
        return CompiledGrammar(source, vocabulary, size)

    def _check(self, source: Source, vocabulary: Vocabulary) -> int:
        """Bytes that a grammar takes, as a process of its own found; 0 where there can be none."""
        for idle in (self._checker(), None):
            try:
                checker = idle or Checker(vocabulary.outline)
            except (OSError, ValueError):
                return 0
            try:
                return checker.check(source, self._seconds)
            except ChildProcessError:  # perhaps before it was asked
                continue
            finally:
                self._checkers.append(checker)
        raise RequestError(f"the {source.name} takes more memory than there is: make it simpler")

    def _checker(self) -> Checker | None:
        """One that is not at work."""
        with suppress(IndexError):
            while (checker := self._checkers.pop()).ended:
                pass
            return checker
        return None

    def _keep(self, key: Key, grammar: CompiledGrammar) -> None:
        """Keep it as the last one to go."""
        with self._door:
            self._alive[key] = self._kept[key] = grammar
            self._kept.move_to_end(key)
            sizes = [each.size for each in self._kept.values()]
            freed = 0
            while len(self._kept) > 1 and sum(sizes[len(sizes) - len(self._kept) :]) > self._most_kept:
                freed += self._kept.popitem(last=False)[1].size
        if freed > _GIVEN_BACK:
            give_back_freed_memory()

    def _make_room(self) -> None:
        """Raises `GrammarsBusy` where what is in use leaves no room."""
        with self._door:
            if self._bytes() > self._most_used:
                self._kept.clear()
            used = self._bytes()
        if used > self._most_used:
            raise GrammarsBusy(f"the grammars in use take {megabytes(used)}: try again later")

    def _bytes(self) -> int:
        return sum(grammar.size for grammar in list(self._alive.values()))

    def _vocabulary(self) -> Vocabulary:
        with self._door:
            if self._made is None:
                self._made = Vocabulary(self.tokenizer)
            return self._made
