"""Grammars that are wrong or too much are refused, on one line and soon."""

import json
import re
import time

import pytest

from sampan.core.errors import RequestError
from sampan.core.types import Grammar, ModelFiles
from sampan.text.grammar import MAX_BYTES, GrammarCompiler
from sampan.text.tokenizer import Tokenizer
from sampan.weights.gguf import read_gguf


@pytest.fixture(scope="module")
def tokenizer(default_model: ModelFiles) -> Tokenizer:
    return Tokenizer.from_gguf(read_gguf(default_model.path).metadata)


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


BAD = {
    "not JSON": ("json_schema", "{", "the JSON schema is not JSON: Expecting property name"),
    "NaN": ("json_schema", '{"minimum": NaN}', "NaN is not a JSON value"),
    "a list": ("json_schema", "[1]", "the JSON schema at # is of type list: give an object"),
    "false": ("json_schema", "false", "the JSON schema is false: it allows nothing at all"),
    "an inner number": ("json_schema", '{"properties": {"a": 3}}', "at #/properties/a is of type int"),
    "no such type": ("json_schema", '{"type": "text"}', "Invalid type: text"),
    "contradiction": (
        "json_schema",
        '{"type": "integer", "minimum": 2, "maximum": 1}',
        "Unsatisfiable schema",
    ),
    "no value": ("json_schema", '{"enum": []}', "Unsatisfiable schema"),
    "no such reference": ("json_schema", '{"$ref": "#/$defs/x"}', "Pointer '/$defs/x' does not exist"),
    "far reference": ("json_schema", '{"$ref": "https://example.com/x"}', "https://example.com/x"),
    "endless reference": ("json_schema", '{"$ref": "#"}', "no token of this model may begin an answer"),
    "look-around": ("json_schema", '{"type": "string", "pattern": "(?=a)b"}', "look-around"),
    "overlap": (
        "json_schema",
        '{"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}',
        "oneOf",
    ),
    "half a surrogate": ("json_schema", '{"const": "\\ud800"}', "the JSON schema cannot be used"),
    "huge number": ("json_schema", '{"minimum": 1e999}', "the JSON schema cannot be used"),
    "names that may repeat": ("json_schema", '{"type": "object", "minProperties": 2}', "minProperties is 2"),
    "long count": ("json_schema", '{"type": "integer", "multipleOf": 999983}', "multipleOf is 999983"),
    "many copies": (
        "json_schema",
        '{"pattern": "((a{100}){100}){100}"}',
        "at #: the pattern repeats 1000000",
    ),
    "many copies too": ("regex", "(x{2000}y){6}", "the regular expression repeats 12000 times: 10000 are"),
    "open group": ("regex", "(a", "unclosed group"),
    "look-ahead": ("regex", "(?!a)b", "look-around"),
    "back reference": ("regex", r"(a)\1", "backreferences are not supported"),
    "no rule": ("lark", "start: foo", 'unknown name: "foo"'),
    "no start": ("lark", 'other: "a"', "the Lark grammar cannot be used"),
    "half a Lark text": ("lark", 'start: "a', "the Lark grammar cannot be used"),
    "empty choice": ("choice", "[]", "the choice must be a JSON list of one text or more"),
    "choice of numbers": ("choice", "[1, 2]", "the choice must be a JSON list of one text or more"),
    "choice not JSON": ("choice", "yes|no", "the choice is not JSON"),
    "no such kind": ("xml", "", "the kind of grammar is 'xml': one of json_schema, json_object, regex"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_grammar_is_refused_on_one_line(compiler: GrammarCompiler, case: str) -> None:
    kind, source, message = BAD[case]
    with pytest.raises(RequestError, match=re.escape(message)) as caught:
        compiler.compile(Grammar(kind, source))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def nested(levels: int) -> str:
    return '{"items": ' * levels + "true" + "}" * levels


def chain(links: int) -> str:
    """Arrays in arrays, each by a reference."""
    defs = {f"d{n}": {"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(links)}
    return json.dumps({"$ref": "#/$defs/d0", "$defs": defs | {f"d{links}": {"type": "null"}}})


def product(factors: int) -> str:
    return json.dumps(
        {
            "allOf": [
                {"anyOf": [{"properties": {f"p{n}_{m}": {"type": "string"}}} for m in range(3)]}
                for n in range(factors)
            ]
        }
    )


HUGE = {
    "deep": ("json_schema", nested(66), "is nested too deeply: 64 levels are the most"),
    "deeper": ("json_schema", nested(20000), "is nested too deeply: 64 levels are the most"),
    "deepest": ("json_schema", "[" * 200_000, "is nested too deeply: 64 levels are the most"),
    "long": ("json_schema", json.dumps({"enum": ["x" * MAX_BYTES]}), "262144 are the most"),
    "long text": ("regex", "é" * (MAX_BYTES // 2 + 1), "has 262146 bytes: 262144 are the most"),
    "wide": ("json_schema", product(12), "schema too large"),
    "many texts": (
        "choice",
        json.dumps([str(n) for n in range(10_001)]),
        "has 10001 texts: 10000 are the most",
    ),
}


@pytest.mark.parametrize("case", HUGE)
def test_a_huge_grammar_is_refused_within_the_limits(compiler: GrammarCompiler, case: str) -> None:
    kind, source, message = HUGE[case]
    started = time.thread_time()
    with pytest.raises(RequestError, match=message) as caught:
        compiler.compile(Grammar(kind, source))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 500
    assert time.thread_time() - started < 5


def test_long_chains_of_references_do_not_overflow_the_stack(compiler: GrammarCompiler) -> None:
    rules = "".join(f'\nr{n}: "a" r{n + 1} | "x"' for n in range(5000))
    for grammar in (
        Grammar("json_schema", chain(2000)),
        Grammar("lark", f'start: r0{rules}\nr5000: "z"'),
    ):
        assert compiler.compile(grammar).allowed()


def test_what_takes_too_long_is_refused(tokenizer: Tokenizer) -> None:
    """And the next one is compiled all the same."""
    compiler = GrammarCompiler(tokenizer, seconds=0.01)
    slow = {
        "type": "object",
        "properties": {f"k{n}": {"type": "string", "maxLength": n + 1} for n in range(700)},
    }
    with pytest.raises(
        RequestError, match=r"the JSON schema took longer than 0.01 s to compile: make it simpler"
    ):
        compiler.compile(Grammar("json_schema", json.dumps(slow)))
    patient = GrammarCompiler(tokenizer)
    assert patient.compile(Grammar("regex", "a")).allowed()
