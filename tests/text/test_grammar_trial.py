"""What compiles can be followed: whatever would stop an answer is refused before."""

import json
import random
import re
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.core.errors import RequestError
from sampan.core.types import Grammar, ModelFiles
from sampan.text.grammar import parser as grammar_parser
from sampan.text.grammar.compiler import MAX_CHOICES, GrammarCompiler, GrammarConstraint
from sampan.text.grammar.parser import CompiledGrammar
from sampan.text.tokenizer import Tokenizer
from sampan.weights.gguf import read_gguf


@pytest.fixture(scope="module")
def compiler(default_model: ModelFiles) -> GrammarCompiler:
    return GrammarCompiler(Tokenizer.from_gguf(read_gguf(default_model.path).metadata))


def allowed(constraint: GrammarConstraint) -> Any:
    mask = constraint.allowed()
    assert mask is not None
    assert constraint.error is None
    return np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little"))


def walk(compiler: GrammarCompiler, constraint: GrammarConstraint, most: int, seed: int) -> list[int]:
    """Up to so many tokens, at random among those that are allowed and end nothing."""
    rng, tokens = random.Random(seed), list[int]()
    while len(tokens) < most and not constraint.done:
        choice = np.setdiff1d(allowed(constraint), list(compiler.tokenizer.eos_ids), assume_unique=True)
        if not len(choice):
            break
        tokens.append(int(choice[rng.randrange(len(choice))]))
        constraint.accept(tokens[-1])
        assert constraint.error is None
    return tokens


def spell(compiler: GrammarCompiler, constraint: GrammarConstraint, text: str) -> None:
    """Write this text, by the longest tokens that are allowed and begin what is left of it."""
    rest = text.encode()
    while rest:
        fitting = [
            (len(part), token)
            for token in allowed(constraint).tolist()
            if (part := compiler.tokenizer.token_bytes(token)) and rest.startswith(part)
        ]
        size, token = max(fitting)
        constraint.accept(token)
        rest = rest[size:]
    assert constraint.error is None


def test_a_choice_of_as_many_texts_as_there_may_be(compiler: GrammarCompiler) -> None:
    """Each as long as the largest grammar has room for."""
    rng = random.Random(5)
    texts = ["".join(rng.choices("abcdefghij klmnop", k=21)) for _ in range(MAX_CHOICES)]
    grammar = Grammar("choice", json.dumps(texts))
    compiler.compile(Grammar("regex", "a"))
    started = time.process_time()
    constraint = compiler.compile(grammar)
    assert time.process_time() - started < 3
    started = time.process_time()
    for text in texts[:: MAX_CHOICES // 50]:
        one = constraint.copy()
        spell(compiler, one, text)
        assert one.done
    assert time.process_time() - started < 10
    for seed in range(50):
        assert compiler.tokenizer.decode(walk(compiler, constraint.copy(), 99, seed)) in texts
    assert compiler.compile(grammar, thinking=True).allowed()


def test_a_choice_of_long_texts(compiler: GrammarCompiler) -> None:
    """What must come next is not read again and again: a text's length costs nothing for each token."""
    texts = [f"{n} " + "lorem ipsum dolor sit amet, " * 900 for n in range(9)]
    constraint = compiler.compile(Grammar("choice", json.dumps(texts)))
    started = time.process_time()
    written = walk(compiler, constraint, 2000, 1)
    assert time.process_time() - started < 20
    assert any(text.startswith(compiler.tokenizer.decode(written)) for text in texts)
    assert len(written) == 2000


def nested(levels: int, most: int) -> dict[str, Any]:
    inner = {"type": "integer"} if levels == 1 else nested(levels - 1, most)
    return {"type": "array", "minItems": 1, "maxItems": most, "items": inner}


def wide(count: int) -> str:
    return json.dumps({"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(count)}})


ENOUGH = {
    "counted letters": ("regex", "[ab]{0,9999}"),
    "counted words": ("regex", "(ab){0,9999}"),
    "letters of all scripts": ("regex", r"(\w{1,30} ){1,300}"),
    "far behind": ("regex", ".*a.{20}"),
    "a long text": ("json_schema", '{"type": "string", "minLength": 9000, "maxLength": 1000000}'),
    "a long array": ("json_schema", '{"type": "array", "minItems": 100000, "maxItems": 1000000}'),
    "nested arrays": ("json_schema", json.dumps(nested(3, 100))),
    "many properties": ("json_schema", wide(1500)),
    "many shapes": ("json_schema", json.dumps({"anyOf": [{"const": {f"k{n}": n}} for n in range(2500)]})),
    "many texts": ("json_schema", json.dumps({"enum": [f"value {n}" for n in range(10_000)]})),
    "counted rules": ("lark", 'start: x~1..100000\nx: "a" | "b"'),
    "counted rules, again": ("lark", 'start: (x{1,1000} ";"){1,1000}\nx: "a" | "b"'),
    "many rules": ("lark", "start: " + " | ".join(f'"v{n}" "w{n}"' for n in range(5000))),
    "an endless object": (
        "json_schema",
        '{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}',
    ),
}


@pytest.mark.parametrize("case", ENOUGH)
def test_what_is_large_is_followed_all_the_same(compiler: GrammarCompiler, case: str) -> None:
    kind, source = ENOUGH[case]
    constraint = compiler.compile(Grammar(kind, source))  # type: ignore[arg-type]
    assert any(len(walk(compiler, constraint.copy(), 100, seed)) > 2 for seed in range(3))


STEPS = "its next token takes more than 200000 steps: repeat less inside of repetitions"
TOO_MUCH = {
    "copies": ("regex", "((a{0,100}){0,100}){0,100}", "repeats 1000000 times: 10000 are the most"),
    "counts in counts": ("regex", "(a{0,100}){0,100}", STEPS),
    "a pattern": ("json_schema", '{"pattern": "^((a{0,100}){0,100})$"}', STEPS),
    "a pattern deep inside": (
        "json_schema",
        json.dumps({"items": {"items": {"properties": {"x": {"pattern": "^(a{0,99}){0,99}$"}}}}}),
        STEPS,
    ),
    "terminals": ("lark", 'start: Y{1,100}\nY: Z{1,100}\nZ: X{1,100}\nX: "a"|"b"', STEPS),
    "rules": ("lark", 'start: ((x{0,100}){0,100}){0,100}\nx: "a"|"b"', "make it less ambiguous"),
    "rules of rules": ("lark", 'start: y{1,99}\ny: z{1,99}\nz: x{1,99}\nx: "a"', "make it less ambiguous"),
    "a rule without an end": ("lark", 'start: "b" x\nx: "a" x', "make it less ambiguous"),
    "a rule without a text": ("lark", 'start: ("b" x)?\nx: x', "it leads to where nothing may come next"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_what_cannot_be_followed_is_refused(compiler: GrammarCompiler, case: str) -> None:
    kind, source, message = TOO_MUCH[case]
    with pytest.raises(RequestError, match=message):
        compiler.compile(Grammar(kind, source))  # type: ignore[arg-type]


COUNTS = st.sampled_from(["*", "+", "?", "{3}", "{0,9}", "{2,100}", "{0,100}", "{5,}"])
EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "ab", "[ab]", ".", r"\w", "[^a]", "é", "a|b", r"\d+", " "]),
    lambda inner: (
        st.builds("{}{}".format, inner, inner)
        | st.builds("({}|{})".format, inner, inner)
        | st.builds("({}){}".format, inner, COUNTS)
    ),
    max_leaves=6,
)
RULES = st.recursive(
    st.sampled_from(['"a"', '"b"', "/[ab]/", "/[a-z]{1,5}/", "X", "Y", "x", "y"]),
    lambda inner: (
        st.builds("{} {}".format, inner, inner)
        | st.builds("({} | {})".format, inner, inner)
        | st.builds("({}){}".format, inner, COUNTS | st.sampled_from(["~1..100000", "~0..30"]))
    ),
    max_leaves=6,
)
TERMINALS = st.sampled_from(['"a"+', "/[ab]*b/", '("a"|"b"){1,9}', '"y"', '"b"~1..30', "/b{1,50}/"])
SCHEMAS = st.recursive(
    EXPRESSIONS.map(lambda pattern: {"type": "string", "pattern": pattern})
    | st.sampled_from([{"type": "integer"}, {"type": "string", "maxLength": 9999}, {"enum": ["a", "b"]}]),
    lambda inner: (
        st.builds(
            lambda items, least, more: {
                "type": "array",
                "items": items,
                "minItems": least,
                "maxItems": least + more,
            },
            inner,
            st.sampled_from([0, 1, 50]),
            st.sampled_from([0, 10, 100_000]),
        )
        | st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    ),
    max_leaves=4,
)
LARK = st.builds("start: {}\nX: {}\nY: {}\nx: {}\ny: {}".format, RULES, TERMINALS, TERMINALS, RULES, RULES)
TEXTS = st.lists(st.text("ab é\n", max_size=80), min_size=1, max_size=40)
GRAMMARS = (
    st.builds(Grammar, st.just("regex"), EXPRESSIONS)
    | st.builds(Grammar, st.just("lark"), LARK)
    | st.builds(Grammar, st.just("json_schema"), SCHEMAS.map(json.dumps))
    | st.builds(Grammar, st.just("choice"), TEXTS.map(json.dumps))
)


@given(GRAMMARS, st.booleans(), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_a_grammar_is_refused_or_can_be_followed(
    compiler: GrammarCompiler, grammar: Grammar, thinking: bool, seed: int
) -> None:
    with suppress(RequestError):
        constraint = compiler.compile(grammar, thinking=thinking)
        assert len(walk(compiler, constraint, 50, seed)) <= 50


def test_an_answer_goes_on_beyond_what_a_parser_holds(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so do those beside it, and those after it."""
    renewed, real = list[int](), CompiledGrammar.renewed

    def counted(self: CompiledGrammar, life: int, tokens: int) -> Any:
        renewed.append(life)
        return real(self, life, tokens)

    monkeypatch.setattr(CompiledGrammar, "renewed", counted)
    grammar = Grammar("regex", r"(\w{1,30} ){200,300}")
    first, other = compiler.compile(grammar), compiler.compile(grammar)
    beside = walk(compiler, other, 20, 2)
    tokens = walk(compiler, first, 350, 1)
    assert len(tokens) == 350
    assert renewed
    beside += walk(compiler, other, 20, 3)
    assert len(beside) == 40
    for constraint, taken in ((first, tokens), (other, beside)):
        again = GrammarCompiler(compiler.tokenizer).compile(grammar)
        for token in taken:
            again.accept(token)
        assert allowed(again).tolist() == allowed(constraint).tolist()
    assert len(walk(compiler, compiler.compile(grammar), 50, 4)) == 50


MAIL = r"^[a-zA-Z0-9._%+-]{1,64}@([a-zA-Z0-9-]{1,63}\.){1,8}[a-zA-Z]{2,63}$"
OBJECT = {"type": "object", "required": ["t"]}
OFTEN = {
    "words": {"type": "string", "pattern": r"^(\S+\s+){0,49}\S+$", "maxLength": 400},
    "mail": {"type": "string", "pattern": MAIL, "maxLength": 320},
}


@pytest.mark.parametrize("case", OFTEN)
def test_a_grammar_answers_again_and_again(compiler: GrammarCompiler, case: str) -> None:
    """What its answers have found together is no limit of theirs, nor how busy the machine is."""
    grammar = Grammar("json_schema", json.dumps(OBJECT | {"properties": {"t": OFTEN[case]}}))
    for seed in range(25):
        walk(compiler, compiler.compile(grammar), 80, seed)


def test_a_grammar_that_has_run_dry_is_compiled_again(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it takes too long to begin anew amid an answer, that answer alone ends with an error."""
    monkeypatch.setattr(grammar_parser, "_ANEW_S", 0)
    grammar = Grammar("json_schema", json.dumps(OFTEN["words"]))
    ended = list[int]()
    for seed in range(12):
        constraint = compiler.compile(grammar)
        with suppress(AssertionError):
            walk(compiler, constraint, 60, seed)
        if constraint.error is not None:
            assert re.fullmatch(
                r"the JSON schema stopped the answer: its next tokens take more than \d+ states: "
                "repeat less inside of repetitions",
                constraint.error,
            )
            assert not compiler.known(grammar)
            assert ended[-1:] != [seed - 1]
            ended.append(seed)
    assert 0 < len(ended) < 6


def test_patterns_of_names_may_be_long(compiler: GrammarCompiler) -> None:
    for pattern in ("[a-z]{1,255}", ".{1,255}", r"\w{5,255}x", "^x.*[a-z]{1,255}"):
        schema = {"type": "object", "patternProperties": {pattern: {"type": "integer"}}}
        constraint = compiler.compile(Grammar("json_schema", json.dumps(schema)))
        for seed in range(3):
            walk(compiler, constraint.copy(), 60, seed)
        spell(compiler, constraint, '{"xabcdex": 12}')
