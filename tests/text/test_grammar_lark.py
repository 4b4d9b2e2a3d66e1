"""Lark grammars that a parser would read on in for ever, and those that it may."""

import json
import random
import re
from contextlib import nullcontext

import numpy as np
import pytest

from sampan.core.errors import RequestError
from sampan.core.types import Grammar, ModelFiles
from sampan.text.grammar.compiler import GrammarCompiler
from sampan.text.grammar.lark import read_lark
from sampan.text.tokenizer import Tokenizer
from sampan.text.tools import ToolFormat, grammar
from sampan.text.tools.deepseek import DEEPSEEK
from sampan.text.tools.json_call import HERMES, LLAMA
from sampan.weights.gguf import read_gguf


@pytest.fixture(scope="module")
def compiler(default_model: ModelFiles) -> GrammarCompiler:
    return GrammarCompiler(Tokenizer.from_gguf(read_gguf(default_model.path).metadata))


ENDLESS = [
    'start: ("b" | "c") X "a"\nX: "a"+',
    'start: ("b" | "c") X "ab" "c"\nX: /(ab)+/',
    'start: ((Y X "a"){5,})*\nX: "a"+\nY: "y"',
    'start: ("b" | "c") X "a"\nX: Y+\nY: "a"',
    'start: "x" A\nA: "a"{1000000000}',
    "start: /b(a{1000000000})/",
    '%llguidance {"no_forcing": false}\nstart: ("b" | "c") X "a"\nX: "a"+',
    'start: ("b" | "c") TEXT "a"\nTEXT: "a"+',
    'start: ("b" | "c") TEXT "a"\nTEXT : "a"+',
    'start: ("b" | "c") TEXT "a" // TEXT: /(.|\\n)*/\nTEXT: /a+/',
]


@pytest.mark.parametrize("source", ENDLESS)
@pytest.mark.timeout(60)
def test_what_never_ends_is_not_read_to_its_end(compiler: GrammarCompiler, source: str) -> None:
    ends = list(compiler.tokenizer.eos_ids)
    constraint = compiler.compile(Grammar("lark", source))
    rng = random.Random(1)
    for _ in range(40):
        mask = constraint.allowed()
        assert mask is not None
        assert list(constraint.forced()) == []
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
        constraint.accept(rng.choice(np.setdiff1d(np.flatnonzero(bits), ends).tolist()))
        assert constraint.error is None


def test_what_must_come_next_is_known_where_terminals_end(compiler: GrammarCompiler) -> None:
    for source in ('start: "the only" " way"', 'start: x "b"\nx: "the only way " y?\ny: "/a/"'):
        guessed = compiler.tokenizer.decode(compiler.compile(Grammar("lark", source)).forced())
        assert guessed.startswith("the only way")


@pytest.mark.parametrize("syntax", [HERMES, LLAMA, DEEPSEEK], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("choice", ["auto", "required", "look/up"])
@pytest.mark.parametrize("parallel", [True, False])
def test_the_grammars_of_calls_are_read_ahead(syntax: object, choice: str, parallel: bool) -> None:
    schema = {"type": "object", "properties": {"A": {"type": "string", "pattern": 'A/"b{2}'}}}
    tools = [
        {"type": "function", "function": {"name": name, "strict": True, "parameters": schema}}
        for name in ("look/up", "NOW")
    ]
    form = ToolFormat(syntax, lists_tools=True, writes_calls=True)  # type: ignore[arg-type]
    found = grammar(form, tools, choice, parallel)
    assert found is not None
    assert "no_forcing" not in read_lark(found.source).text


SAME = {
    "a slip": (
        {"properties": {"a": {"type": "string", "maxlength": 3}}},
        '"maxlength" is unknown and resembles',
    ),
    "no such format": ({"properties": {"a": {"format": "idn-email"}}}, "'idn-email', which is not supported"),
    "of no type": ({"properties": {"a": {"pattern": 1}}}, '"pattern" is 1: give a text'),
    "options that overlap": (
        {"properties": {"a": {"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}}},
        "of #/properties/a/oneOf/0 and #/properties/a/oneOf/1",
    ),
    "unknown": ({"optional": [], "properties": {"a": {"type": "integer", "format": "int64"}}}, None),
    "a condition": ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, None),
}


@pytest.mark.parametrize("case", SAME)
def test_a_strict_tool_takes_the_schemas_that_an_answer_takes(compiler: GrammarCompiler, case: str) -> None:
    """And refuses the same, by the same words."""
    parameters, message = SAME[case]
    schema = {"type": "object", **parameters}  # type: ignore[dict-item]
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}
    calls = grammar(ToolFormat(HERMES, lists_tools=True, writes_calls=True), [tool], "required")
    assert calls is not None
    for asked in (Grammar("json_schema", json.dumps(schema)), calls):
        with nullcontext() if message is None else pytest.raises(RequestError, match=re.escape(message)):
            compiler.compile(asked)


def schema(part: object) -> str:
    inner = {"type": "array", "items": {"anyOf": [{"type": "null"}, part]}}
    return f"start: %json {json.dumps(inner)}"


TOO_MUCH = {
    "a pattern": (
        schema({"pattern": "(a{1000}){11}"}),
        "the pattern repeats 11000 times: 10000 are",
    ),
    "a name": (
        schema({"patternProperties": {"a{10001}": {}}}),
        "patternProperties repeats 10001 times",
    ),
    "a length": (schema({"type": "string", "minLength": 10001}), "minLength is 10001: 10000 is the most"),
    "a float": (schema({"type": "string", "minLength": 1e9}), "minLength is 1000000000.0: 10000 is the most"),
    "depth": ("start: %json " + "[" * 100_000, "nested too deeply: 64 levels are the most"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_schemas_in_it_are_held_to_the_same_limits(compiler: GrammarCompiler, case: str) -> None:
    source, message = TOO_MUCH[case]
    with pytest.raises(RequestError, match=re.escape(message)):
        compiler.compile(Grammar("lark", source))


def test_what_only_looks_like_a_schema_is_left_alone(compiler: GrammarCompiler) -> None:
    assert compiler.compile(Grammar("lark", 'start: "%json" " {\\"minLength\\": 99999}"')).allowed()
    with pytest.raises(RequestError, match="the Lark grammar cannot be used"):
        compiler.compile(Grammar("lark", "start: %json {"))
