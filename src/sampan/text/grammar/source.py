"""Grammars in llguidance's form, what its parser may take to follow them, and its errors in plain words."""

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sampan.core.errors import RequestError
from sampan.core.types import Grammar
from sampan.text.grammar.lark import STRICT, read_lark
from sampan.text.schema.read import check_repeats, read_json, read_schema

if TYPE_CHECKING:
    from llguidance import LLParserLimits

MAX_BYTES = 256 * 1024
MAX_CHOICES = 10_000
FORM = "form"
"""The name of an answer's own grammar, where there is another of calls beside it."""
NAMES = {
    "json_schema": "JSON schema",
    "json_object": "grammar of JSON objects",
    "regex": "regular expression",
    "lark": "Lark grammar",
    "choice": "choice",
}
# Of any grammar, and for each byte of its source: what is wide takes as much as it is wide, what is ambiguous
# takes more however short it is.
_STATES, _STATES_A_BYTE = 20_000, 1
_ITEMS, _ITEMS_A_BYTE = 2_000, 0.5
_STEP_ITEMS, _STEP_ITEMS_A_BYTE = 50_000, 5
_FUEL, _FUEL_A_BYTE = 1_000_000, 10
_STEP_FUEL, _STEP_FUEL_OF_KEYS = 200_000, 4_000_000  # what is no key of a pattern is found in many steps
_PARTS = 8
_STATES_A_TOKEN = 8  # of an answer that is read again from its start
# White space as people write JSON: without a bound a small model may write nothing else.
JSON_OPTIONS = STRICT | {"whitespace_pattern": r" |\n[ \t]{0,32}"}
# An answer inside a block of reasoning: the text up to the tag is free.
_THOUGHT = 'start: thought /\\n{1,2}/? @answer\nthought[suffix="</think>"]: /(.|\\n)*/'
_LONGEST = 80  # of what a message repeats
_PLACE = re.compile(r"\s*\d+ \||\s*\^|    ")  # a line of the source, or a mark below one


@dataclass(frozen=True)
class Source:
    """A grammar as llguidance reads it. `name`: of its kind, for messages. `parts`: what may be hard
    to follow and deep inside of it, as grammars of their own. `overlaps`, `keys`: as of a `ReadSchema`."""

    name: str
    text: str
    parts: "tuple[Source, ...]" = ()
    overlaps: tuple[str, ...] = ()
    keys: bool = False

    def numbers(self, *, spare: int = 1, tokens: int = 0) -> dict[str, int]:
        """The limits of a parser: `spare` times as much as usual, for an answer of so many tokens."""
        size = len(self.text)
        return {
            "max_lexer_states": _STATES + _STATES_A_BYTE * size + _STATES_A_TOKEN * tokens,
            "max_items_in_row": spare * int(_ITEMS + _ITEMS_A_BYTE * size),
            "step_max_items": spare * (_STEP_ITEMS + _STEP_ITEMS_A_BYTE * size),
            "initial_lexer_fuel": _FUEL + _FUEL_A_BYTE * size,
            "step_lexer_fuel": spare * (_STEP_FUEL_OF_KEYS if self.keys else _STEP_FUEL),
        }

    def limits(self, *, spare: int = 1, tokens: int = 0) -> "LLParserLimits":
        """The same for llguidance."""
        return parser_limits(self.numbers(spare=spare, tokens=tokens))

    def explained(self, error: str) -> str:
        """An error of llguidance on one short line, with the number of the limit if it is due to one."""
        numbers = self.numbers()
        if _ONE_OF in error:
            which = ": it is not certain of " + " and ".join(self.overlaps[:1]) if self.overlaps else ""
            return f"the options of a oneOf must exclude each other{which}: give anyOf"
        for sign, words in _WORDS.items():
            if sign in error:
                return words.format(**numbers)
        lines = error.partition("<backtrace>")[0].removesuffix("<non-verbose/>").splitlines()
        text = " ".join(" ".join(line for line in lines if not _PLACE.match(line)).split())
        text = re.sub(rf"([\"'])([^\"']{{{_LONGEST}}})[^\"']+\1", r"\1\2...\1", text)
        text = re.sub(rf"(\S{{{_LONGEST}}})\S+", r"\1...", text)
        text = re.sub(rf"(: [^:]{{{_LONGEST}}})[^:]+$", r"\1...", text)
        return text[: 3 * _LONGEST] or "no reason was given"


_ONE_OF = "oneOf constraints are not supported"
_REPEATS, _AMBIGUOUS = ": repeat less inside of repetitions", ": make it less ambiguous"
_WORDS = {
    "too many expressions constructed": "its next token takes more than {step_lexer_fuel} steps" + _REPEATS,
    "too many states": "its next tokens take more than {max_lexer_states} states" + _REPEATS,
    "Current row has": "a text can be read in more than {max_items_in_row} ways at once" + _AMBIGUOUS,
    "Too many items": "its next token can be read in more than {step_max_items} ways" + _AMBIGUOUS,
    "NoExtension": "it leads to where nothing may come next",
    "initial lexer configuration": "it takes more than {initial_lexer_fuel} steps to read: make it smaller",
    "fuel exhausted": "it takes more than {initial_lexer_fuel} steps to read: make it smaller",
    "number of symbols": "it has more than 500000 rules: make it smaller",
    "symbols.len() < u16::MAX": "it has more than 65000 rules: make it smaller",
}
# What a token that was allowed runs into where another answer met a limit: its terminals' states stay dead.
_SHARED = ("lexer error", "doesn't satisfy the grammar")
_OWN = ("Current row has", "Too many items")


def shared_limit(error: str) -> bool:
    """Whether an error is of what all answers of a grammar share: it is then every answer's."""
    return any(sign in error for sign in _SHARED)


def own_limit(error: str) -> bool:
    """Whether an error is due to the limits of one answer's own parser."""
    return any(sign in error for sign in _OWN)


def parser_limits(numbers: dict[str, int]) -> "LLParserLimits":
    """`Source.numbers` for llguidance."""
    from llguidance import LLParserLimits

    # Large terminals are not run against the whole vocabulary ahead: it takes seconds and megabytes.
    return LLParserLimits(**numbers, precompute_large_lexemes=False, verbose_errors=False)


def read_grammar(grammar: Grammar, thinking: bool) -> Source:
    """A grammar in llguidance's own form. Raises `RequestError` for what is refused before it is compiled."""
    name = NAMES[grammar.kind]
    size = len((grammar.source + grammar.calls).encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise RequestError(f"the {name} has {size} bytes: {MAX_BYTES} are the most")
    if grammar.kind == "json_schema":
        read = read_schema(grammar.source)
        schema = _object(read.schema)
        patterns = ({"type": "string", "pattern": each} for each in read.nested[:_PARTS])
        parts = tuple(Source(name, _text([_of_schema(each)])) for each in patterns)
        found = Source(name, "", parts, read.overlaps, read.keys), _of_schema(schema)
    elif grammar.kind == "lark":
        _check_text(grammar)
        found = _of_lark(name, grammar.source)
    else:
        found = Source(name, ""), _entry(grammar)
    source, entry = found
    grammars = [entry]
    if grammar.calls:
        calls, first = _of_lark(name, grammar.calls)
        source = replace(source, overlaps=source.overlaps + calls.overlaps, keys=source.keys or calls.keys)
        grammars = [first, entry | {"name": FORM}]
    if thinking:
        first, *rest = grammars
        grammars = [{"lark_grammar": _THOUGHT}, first | {"name": "answer"}, *rest]
    return replace(source, text=_text(grammars))


def _text(grammars: list[dict[str, Any]]) -> str:
    return json.dumps({"grammars": grammars})


def _of_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"json_schema": schema | {"x-guidance": JSON_OPTIONS}}


def _of_lark(name: str, source: str) -> tuple[Source, dict[str, Any]]:
    lark = read_lark(source)
    return Source(name, "", (), lark.overlaps, lark.keys), {"lark_grammar": lark.text}


def _entry(grammar: Grammar) -> dict[str, Any]:
    source = grammar.source
    if grammar.kind == "json_object":
        return {"json_schema": {"type": "object", "x-guidance": JSON_OPTIONS}}
    if grammar.kind == "choice":
        # One terminal: its texts share their beginnings, and reading takes no longer the more there are.
        return {"lark_grammar": "start: CHOICE\nCHOICE: " + " | ".join(map(json.dumps, _choices(source)))}
    _check_text(grammar)
    from llguidance import LLMatcher

    check_repeats(source, "the regular expression")
    entry: dict[str, Any] = json.loads(LLMatcher.grammar_from_regex(source))["grammars"][0]
    return entry


def _check_text(grammar: Grammar) -> None:
    if _lone_surrogate(grammar.source):
        raise RequestError(f"the {NAMES[grammar.kind]} has half a surrogate pair, which is no text")


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
    if any(map(_lone_surrogate, choices)):
        raise RequestError("the choice has half a surrogate pair, which is no text")
    return choices


def _lone_surrogate(text: str) -> bool:
    return any("\ud800" <= sign <= "\udfff" for sign in text)
