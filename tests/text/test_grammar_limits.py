"""Grammars that are wrong or too much are refused, on one line and soon."""

import json
import re
import time

import pytest

from sampan.core.errors import RequestError
from sampan.core.types import Grammar, ModelFiles
from sampan.text.grammar.compiler import MAX_BYTES, GrammarCompiler
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
    "no such type": (
        "json_schema",
        '{"type": "text"}',
        "at #: the keyword \"type\" is 'text': give one or more of null, ",
    ),
    "contradiction": (
        "json_schema",
        '{"type": "integer", "minimum": 2, "maximum": 1}',
        "Unsatisfiable schema",
    ),
    "no value": ("json_schema", '{"enum": []}', "Unsatisfiable schema"),
    "no such reference": ("json_schema", '{"$ref": "#/$defs/x"}', "leads to nothing in this document"),
    "far reference": ("json_schema", '{"$ref": "https://example.com/x"}', "https://example.com/x"),
    "endless reference": ("json_schema", '{"$ref": "#"}', "no token of this model may begin an answer"),
    "look-around": ("json_schema", '{"type": "string", "pattern": "(?=a)b"}', "look-around"),
    "overlap": (
        "json_schema",
        '{"oneOf": [{"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "b$"}]}',
        "the options of a oneOf must exclude each other: it is not certain of #/oneOf/0 and #/oneOf/1",
    ),
    "half a surrogate": ("json_schema", '{"const": "\\ud800"}', "the JSON schema cannot be used"),
    "huge number": ("json_schema", '{"minimum": 1e999}', "'1e999' is too large a number"),
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
    "format of a list": ("json_schema", '{"format": ["date"]}', "\"format\" is ['date']: give a text"),
    "list of names": (
        "json_schema",
        '{"patternProperties": ["a"]}',
        "\"patternProperties\" is ['a']: give an object",
    ),
    "long text": ("json_schema", '{"minLength": 10001}', "at #: minLength is 10001: 10000 is the most"),
    "long text, a float": ("json_schema", '{"minLength": 1e9, "pattern": "^a*$"}', "10000 is the most"),
    "no list": (
        "json_schema",
        '{"allOf": 3, "format": "date"}',
        'at #: the keyword "allOf" is 3: give a list',
    ),
    "half an expression": ("regex", "a\ud800", "has half a surrogate pair, which is no text"),
    "half a grammar": ("lark", 'start: "\ud800"', "has half a surrogate pair, which is no text"),
    "half a choice": ("choice", '["\\ud800"]', "has half a surrogate pair, which is no text"),
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


WRONG = {
    "no source": ("regex", None, "the source of a grammar is None: give a text"),
    "bytes": ("regex", b"a+", "the source of a grammar is b'a+': give a text"),
    "an object": (
        "json_schema",
        {"type": "null"},
        "the source of a grammar is {'type': 'null'}: give a text",
    ),
    "no kind": (
        None,
        "a",
        "the kind of grammar is None: one of json_schema, json_object, regex, lark, choice",
    ),
    "two kinds": (["regex", "lark"], "a", "the kind of grammar is ['regex', 'lark']: one of json_schema"),
    "a long kind": ("x" * 500, "", "x'...: one of json_schema"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_grammar_of_the_wrong_type_is_none(case: str) -> None:
    kind, source, message = WRONG[case]
    with pytest.raises(RequestError, match=re.escape(message)) as caught:
        Grammar(kind, source)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


LONG = "q" * 3000
WORDS = "a b\n" * 1000
REPEATED = {
    "a keyword": ("json_schema", json.dumps({"$dynamicRef": 1, LONG: 1})),
    "a type": ("json_schema", json.dumps({"type": WORDS})),
    "a format": ("json_schema", json.dumps({"format": [WORDS]})),
    "a place": ("json_schema", json.dumps({"properties": {LONG + "\n": 1}})),
    "a reference": ("json_schema", json.dumps({"$ref": WORDS})),
    "a pattern": ("json_schema", json.dumps({"pattern": "(" + WORDS})),
    "a number": ("json_schema", json.dumps({"minProperties": 10**4000})),
    "a step": ("json_schema", json.dumps({"multipleOf": 10**400 + 1})),
    "a float": ("json_schema", '{"minimum": 1' + "0" * 3000 + ".5}"),
    "an expression": ("regex", "(" + WORDS),
    "a name": ("lark", f"start: {LONG}"),
    "a text": ("lark", f'start: "{LONG}'),
    "a token": ("lark", f"start: <|{LONG}|>"),
}


@pytest.mark.parametrize("case", REPEATED)
def test_a_message_repeats_little_of_what_was_given(compiler: GrammarCompiler, case: str) -> None:
    kind, source = REPEATED[case]
    with pytest.raises(RequestError) as caught:
        compiler.compile(Grammar(kind, source))  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.isprintable()
    assert LONG[:100] not in message
    assert "a b " * 25 not in message
    assert not re.search("[09]{81}", message)
    assert len(message) < 320
