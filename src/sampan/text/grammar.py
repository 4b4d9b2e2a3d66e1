"""Grammars as masks over a tokenizer's vocabulary, by llguidance, imported when it is needed.

A compiled grammar follows an answer byte by byte, however its tokens cut it, so that a token is allowed where
its bytes can go on to a whole answer. Control tokens are no text and never allowed, except those that end an
answer, where it may end.
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sampan.core.errors import RequestError
from sampan.core.types import Grammar
from sampan.text.schema import check_repeats, read_json, read_schema
from sampan.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_BYTES = 256 * 1024
MAX_CHOICES = 10_000
_COMPILE_S = 5.0
_MASK_S = 1.0  # of processor time; the engine waits for a mask
_STACK_BYTES = 512 * 1024**2  # rules that lead to rules are followed by recursion; only what is used is taken
_KEPT = 32  # compiled grammars
_REASONING = ("<think>", "</think>")
# White space as people write JSON: without a bound a small model may write nothing else.
_JSON = {
    "whitespace_pattern": r" |\n[ \t]{0,32}",
    "json_allowed_escapes": r"nrbtf\"",  # with \u a key could be spelt anew, and pass for another one
    "lenient": False,
    "coerce_one_of": False,
}
# An answer inside a block of reasoning: the text up to the tag is free.
_THOUGHT = 'start: thought /\\n{1,2}/? @answer\nthought[suffix="</think>"]: /(.|\\n)*/'


class GrammarConstraint:
    """One answer's way through a grammar; see `sampan.engine.constraint.Constraint`."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher
        self.done = False
        self.error: str | None = None

    def allowed(self) -> bytes | None:
        """The tokens that may come next, a bit each."""
        started = time.thread_time()
        mask = self._matcher.compute_bitmask()
        if time.thread_time() - started > _MASK_S:
            self.error = "the grammar is too complex: its next tokens take too long to find"
        self._look()
        return mask

    def accept(self, token: int) -> None:
        """The token that was chosen."""
        self._matcher.consume_token(token)
        self._look()

    def forced(self) -> Sequence[int]:
        """Tokens of the text that must come next, as the tokenizer would write it."""
        return self._matcher.compute_ff_tokens()

    def copy(self) -> "GrammarConstraint":
        """The same state, to go on from independently."""
        return GrammarConstraint(self._matcher.deep_copy())

    def _look(self) -> None:
        if self._matcher.is_error():
            self.error = self.error or f"the grammar stopped the answer: {_line(self._matcher.get_error())}"
        else:
            self.done = self._matcher.is_stopped()


class GrammarCompiler:
    """Compiles grammars for one tokenizer. Safe to share between threads.

    `seconds`: what compiling may take; a grammar that takes longer is refused.
    """

    def __init__(self, tokenizer: Tokenizer, *, seconds: float = _COMPILE_S) -> None:
        self.tokenizer = tokenizer
        self._seconds = seconds
        self._known: OrderedDict[tuple[Grammar, bool], GrammarConstraint] = OrderedDict()
        self._vocabulary: LLTokenizer | None = None
        self._door = threading.Lock()

    def compile(self, grammar: Grammar, *, thinking: bool = False) -> GrammarConstraint:
        """A fresh constraint, for one answer. It takes milliseconds, the first one a second; call it where
        nobody waits.

        `thinking`: the prompt has opened a block of reasoning, and the grammar begins behind it. Raises
        `RequestError` for a grammar that is wrong, not supported, too large or too complex.
        """
        key = grammar, thinking
        with self._door:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known.copy()
        compiled = self._compiled(grammar, thinking)
        with self._door:
            self._known[key] = compiled
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
            return compiled.copy()

    def _compiled(self, grammar: Grammar, thinking: bool) -> GrammarConstraint:
        from llguidance import LLMatcher

        source, vocabulary, limits = _grammar(grammar, thinking), self._words(), _limits()
        found: list[GrammarConstraint] = []

        def work() -> None:
            found.append(_first(LLMatcher(vocabulary, source, log_level=0, limits=limits)))

        _on_deep_stack(work, self._seconds)
        if not found:
            raise RequestError(
                f"the {_NAMES[grammar.kind]} took longer than {self._seconds:g} s to compile: make it simpler"
            )
        if found[0].error is not None:
            raise RequestError(f"the {_NAMES[grammar.kind]} cannot be used: {found[0].error}")
        return found[0]

    def _words(self) -> "LLTokenizer":
        with self._door:
            if self._vocabulary is None:
                self._vocabulary = _vocabulary(self.tokenizer)
            return self._vocabulary


_NAMES = {
    "json_schema": "JSON schema",
    "json_object": "grammar of JSON objects",
    "regex": "regular expression",
    "lark": "Lark grammar",
    "choice": "choice",
}


@dataclass(frozen=True)
class _Words:
    """What llguidance asks of a tokenizer."""

    tokenizer: Tokenizer
    eos_token_id: int
    tokens: list[bytes]
    special_token_ids: list[int]
    bos_token_id: None = None
    is_tokenizer_wrapper: bool = True

    def __call__(self, text: str | bytes) -> list[int]:
        text = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return self.tokenizer.encode(text, add_bos=False, special=False)


def _first(matcher: "LLMatcher") -> GrammarConstraint:
    """A constraint at its start, whose first mask is known to exist."""
    start = GrammarConstraint(matcher)
    if matcher.is_error():
        start.error = _line(matcher.get_error())
    elif not any(start.allowed() or b"") or matcher.get_error().startswith("NoExtension"):
        start.error = "no token of this model may begin an answer"
    return start


def _vocabulary(tokenizer: Tokenizer) -> "LLTokenizer":
    from llguidance import LLMatcher, LLTokenizer

    ends = sorted(tokenizer.eos_ids)
    if not ends:
        raise RequestError("this model has no token that ends an answer: it cannot follow a grammar")
    special = [token for token in tokenizer.special_ids if tokenizer.token_text(token) not in _REASONING]
    tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    words: Any = _Words(tokenizer, ends[0], tokens, sorted(special))
    vocabulary = LLTokenizer(words, eos_token=ends)
    LLMatcher(vocabulary, LLMatcher.grammar_from_regex("a")).compute_bitmask()  # what is built once
    return vocabulary


def _limits() -> "LLParserLimits":
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=20_000, verbose_errors=False)


def _grammar(grammar: Grammar, thinking: bool) -> str:
    """A grammar in llguidance's own form. Raises `RequestError` for what is refused before it is compiled."""
    size = len(grammar.source.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise RequestError(f"the {_NAMES[grammar.kind]} has {size} bytes: {MAX_BYTES} are the most")
    entry = _entry(grammar)
    if not thinking:
        return json.dumps({"grammars": [entry]})
    return json.dumps({"grammars": [{"lark_grammar": _THOUGHT}, entry | {"name": "answer"}]})


def _entry(grammar: Grammar) -> dict[str, Any]:
    source = grammar.source
    if grammar.kind == "json_schema":
        return {"json_schema": _object(read_schema(source)) | {"x-guidance": _JSON}}
    if grammar.kind == "json_object":
        return {"json_schema": {"type": "object", "x-guidance": _JSON}}
    if grammar.kind == "regex":
        from llguidance import LLMatcher

        check_repeats(source, "the regular expression")
        entry: dict[str, Any] = json.loads(LLMatcher.grammar_from_regex(source))["grammars"][0]
        return entry
    if grammar.kind == "choice":
        return {"lark_grammar": "start: " + " | ".join(map(json.dumps, _choices(source)))}
    if grammar.kind == "lark":
        return {"lark_grammar": source}
    raise RequestError(f"the kind of grammar is {grammar.kind!r:.60}: one of {', '.join(_NAMES)}")


def _object(schema: Any) -> dict[str, Any]:
    """`true` as the object that says the same."""
    if schema is False:
        raise RequestError("the JSON schema is false: it allows nothing at all")
    return {} if schema is True else schema


def _choices(source: str) -> list[str]:
    choices = read_json(source, "the choice")
    if not isinstance(choices, list) or not choices or not all(isinstance(c, str) for c in choices):
        raise RequestError("the choice must be a JSON list of one text or more")
    if len(choices) > MAX_CHOICES:
        raise RequestError(f"the choice has {len(choices)} texts: {MAX_CHOICES} are the most")
    return choices


def _on_deep_stack(work: Any, seconds: float) -> None:
    """Run on a thread with room for deep recursion, and wait that long. It cannot be stopped, but its limits
    end it, and the end of the process does not wait for it."""
    before = threading.stack_size(_STACK_BYTES)
    try:
        thread = threading.Thread(target=work, name="sampan-grammar", daemon=True)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join(seconds)


def _line(message: str) -> str:
    """The parts of an error that say something, on one line."""
    return " ".join(message.removesuffix("<non-verbose/>").split())[:300] or "no reason was given"
