"""Whatever llguidance lets through is a call that the parser finds, with arguments valid by its schema.

Answers are walks over the default model's vocabulary: at each place any token that the grammar allows.
"""

import json
import random
import re

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from sampan.core.errors import RequestError
from sampan.core.types import Grammar
from sampan.text.grammar.compiler import GrammarCompiler
from sampan.text.grammar.lark import read_lark
from sampan.text.tokenizer import Tokenizer
from sampan.text.tools import Call, CallPiece, TextPiece, ToolFormat, ToolParser, grammar, looseness
from sampan.text.tools.deepseek import DEEPSEEK, DEEPSEEK_V31
from sampan.text.tools.json_call import HERMES, LLAMA
from sampan.weights.gguf import read_gguf

SYNTAXES = {syntax.name: syntax for syntax in (HERMES, LLAMA, DEEPSEEK, DEEPSEEK_V31)}
LONGEST = 400  # tokens of a walk


def tool(name, parameters=None, **more):
    function = {"name": name, "description": "…", **more}
    return {"type": "function", "function": function | ({"parameters": parameters} if parameters else {})}


def closed(**properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


WEATHER = closed(
    city={"enum": ["Paris", "Łódź", 'a "b"']}, days={"type": "integer", "minimum": 1, "maximum": 9}
)
POINT = {
    "$defs": {"axis": {"type": "number", "minimum": 0, "maximum": 1}},
    **closed(x={"$ref": "#/$defs/axis"}, y={"$ref": "#/$defs/axis"}, kind={"type": ["null", "boolean"]}),
}
EITHER = {"anyOf": [closed(a={"const": 1}), closed(b={"type": "string", "maxLength": 3})]}
TOOLS = [tool("weather", WEATHER), tool("now"), tool("plot-point", POINT), tool("either", EITHER)]
SCHEMAS = {each["function"]["name"]: each["function"].get("parameters", closed()) for each in TOOLS}


class Vocabulary:
    """The default model's, with control tokens of its own posing as the markers if asked."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.markers = {}
        self.eos = sorted(tokenizer.eos_ids)
        self.llg = LLTokenizer(TokenizerWrapper(self), eos_token=self.eos)

    eos_token_id = property(lambda self: self.eos[0])
    bos_token_id = property(lambda self: self.tokenizer.bos_id)
    special_token_ids = property(lambda self: sorted(self.tokenizer.special_ids))

    @property
    def tokens(self):
        special = self.tokenizer.special_ids
        return [
            (
                self.tokenizer.token_text(token).encode()
                if token in special
                else self.tokenizer.token_bytes(token)
            )
            for token in range(self.tokenizer.vocab_size)
        ]

    def __call__(self, text):
        return self.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)

    def encode(self, text):
        return self.tokenizer.encode(text, add_bos=False, special=False)

    def decode(self, ids, control):
        texts = {token: text.encode() for text, token in control.items()}
        return b"".join(texts.get(token) or self.tokenizer.token_bytes(token) for token in ids).decode(
            "utf-8"
        )


@pytest.fixture(scope="module")
def vocabulary(default_model):
    return Vocabulary(Tokenizer.from_gguf(read_gguf(default_model.path).metadata))


def form(syntax, control):
    """`control`: the markers are control tokens, ids 5 and on of the default model's vocabulary."""
    ids = {marker: 5 + n for n, marker in enumerate(syntax.markers)} if control else {}
    return ToolFormat(syntax, True, True, control=ids)


def matcher(vocabulary, source):
    found = LLMatcher(vocabulary.llg, source)
    assert not found.get_error()
    return found


def walk(vocabulary, source, seed, *, prefix=()):
    """Tokens that the grammar allows, up to an end of sequence; None where none came."""
    draw = random.Random(seed)
    found = matcher(vocabulary, source)
    ids = list(prefix)
    assert found.consume_tokens(ids)
    for _ in range(LONGEST):
        bits = np.unpackbits(np.frombuffer(found.compute_bitmask(), np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits[: vocabulary.tokenizer.vocab_size])
        ongoing = np.setdiff1d(allowed, vocabulary.eos).tolist()
        if len(ongoing) < len(allowed) and (not ongoing or draw.random() < 0.5):
            return ids
        token = draw.choice(ongoing)
        assert found.consume_token(token)
        ids.append(token)
    return None


def calls_in(format, text):
    parser = ToolParser(format, list(SCHEMAS), whole=True)
    pieces = parser.push(text) + parser.finish()
    calls = [(piece.name, piece.arguments) for piece in pieces if isinstance(piece, CallPiece)]
    return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece)), calls


def check(calls):
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
@pytest.mark.parametrize("parallel", [False, True])
def test_required_calls_are_made_and_valid(vocabulary, syntax, control, parallel):
    format = form(syntax, control)
    source = grammar(format, TOOLS, "required", parallel)
    assert source.kind == "lark"
    counts = []
    for seed in range(10):
        ids = walk(vocabulary, source.source, seed)
        if ids is not None:
            text, calls = calls_in(format, vocabulary.decode(ids, format.control))
            assert (text, bool(calls)) == ("", True)
            check(calls)
            counts.append(len(calls))
    assert len(counts) > 5
    assert (max(counts) > 1) == parallel


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_a_named_function_is_called_once(vocabulary, syntax, control):
    format = form(syntax, control)
    for name in SCHEMAS:
        source = grammar(format, TOOLS, name, True).source
        ids = next(ids for seed in range(5) if (ids := walk(vocabulary, source, seed)) is not None)
        text, calls = calls_in(format, vocabulary.decode(ids, format.control))
        assert (text, [called for called, _ in calls]) == ("", [name])
        check(calls)


STRICT = [tool("weather", WEATHER, strict=True), *TOOLS[1:]]


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
@pytest.mark.parametrize("parallel", [False, True])
def test_a_call_that_the_model_begins_is_valid(vocabulary, syntax, control, parallel):
    format = form(syntax, control)
    source = grammar(format, STRICT, "auto", parallel).source
    parts = ["{"] if syntax.bare else ["Let me look. ", syntax.openers[0]]
    prefix = [
        token
        for part in parts
        for token in ([format.control[part]] if part in format.control else vocabulary.encode(part))
    ]
    found = 0
    for seed in range(8):
        ids = walk(vocabulary, source, seed, prefix=prefix)
        if ids is not None:
            text, calls = calls_in(format, vocabulary.decode(ids, format.control))
            assert calls
            assert text.startswith("Let me look.") or syntax.bare
            assert parallel or (text in ("", "Let me look.") and len(calls) == 1)
            check(calls)
            found += 1
    assert found > 2


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
@pytest.mark.parametrize("text", ["", "Hello.", "  1 < 2 {and} <tool\n\n<| x", "日本 <"])
def test_an_answer_in_words_stays_free(vocabulary, syntax, control, text):
    found = matcher(vocabulary, grammar(form(syntax, control), STRICT, "auto", True).source)
    assert found.consume_tokens(vocabulary.encode(text))
    assert found.is_accepting()


GOOD, BAD = '{"city": "Paris", "days": 3}', '{"city": "Oslo", "days": 3}'


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        '{"name": "weather", "arguments": ARGUMENTS}',
        '\n{"name":"weather","parameters":ARGUMENTS }\n',
        '```json\n{"name": "weather", "arguments": ARGUMENTS}\n```',
        '<tools>\n{\n  "name": "weather",\n  "arguments": ARGUMENTS\n}\n</tools>',
        '{"name": "now", "arguments": {}}\n{"name": "weather", "arguments": ARGUMENTS}',
    ],
)
def test_a_call_without_its_opener_is_valid_too(compiler, text, control):
    format = form(HERMES, control)
    source = grammar(format, STRICT, "auto", True)
    good, bad = (text.replace("ARGUMENTS", given) for given in (GOOD, BAD))
    assert whole(compiler, source, good)
    assert not whole(compiler, source, bad)
    parser = ToolParser(format, list(SCHEMAS), loose=looseness(source))
    calls = [piece for piece in parser.push(good) + parser.finish() if isinstance(piece, CallPiece)]
    assert "".join(piece.arguments for piece in calls).endswith(GOOD)
    alone = grammar(format, STRICT, "auto", False)
    assert whole(compiler, alone, good) == (good.count("name") == 1)
    assert not whole(compiler, alone, bad)
    for words in (
        '{"name": "Bob"}',
        '{"name": "nobody", "arguments": {}}',
        "As JSON:\n" + bad,
        "```c\n{}\n```",
    ):
        assert whole(compiler, source, words)


@pytest.mark.parametrize("name", ["f", 'odd "name" \\ NAME', "日本", "a/b.c-d+e*[f](g)|h?", "https://x"])
def test_grammars_of_calls_let_forced_text_be_forced(compiler, name):
    tools = [tool(name, WEATHER, strict=True), tool("now")]
    for syntax in SYNTAXES.values():
        for choice in ("auto", "required"):
            source = grammar(form(syntax, False), tools, choice, True)
            compiler.compile(source)
            assert "no_forcing" not in read_lark(source.source).text or not re.fullmatch(r"[\w-]+", name)


FORMS = {
    "json_schema": json.dumps(closed(city={"enum": ["Paris", "Rome"]}, sunny={"type": "boolean"})),
    "json_object": "",
    "choice": '["yes", "no"]',
    "regex": "[0-9]{4}",
    "lark": 'start: "a" /[bc]{3}/',
}
ANSWERS = {
    "json_schema": ['{"city": "Rome", "sunny": true}', ["Rome", '{"city": "Rome"}', '{"city": "Oslo"']],
    "json_object": ['{"a": [1]}', ["[1]", "Yes."]],
    "choice": ["yes", ["maybe"]],
    "regex": ["1984", ["198", "19845"]],
    "lark": ["abcb", ["abc", "bbbb"]],
}


def whole(compiler, source, text, *, thinking=False, control=()):
    """Whether this is a whole answer by the grammar."""
    constraint = compiler.compile(source, thinking=thinking)
    for part in re.split("(" + "|".join(map(re.escape, control)) + ")", text) if control else [text]:
        for token in [control[part]] if part in control else compiler.tokenizer.encode(part, add_bos=False):
            mask = constraint.allowed()
            if constraint.done or mask is None or not mask[token // 8] >> token % 8 & 1:
                return False
            constraint.accept(token)
    mask = constraint.allowed()
    ends = compiler.tokenizer.eos_ids
    return constraint.done or (mask is not None and any(mask[end // 8] >> end % 8 & 1 for end in ends))


@pytest.fixture(scope="module")
def compiler(vocabulary):
    return GrammarCompiler(vocabulary.tokenizer)


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_an_answer_calls_or_keeps_the_form(compiler, syntax, kind, control):
    format = form(syntax, control)
    source = grammar(format, TOOLS, "auto", True, Grammar(kind, FORMS[kind]))
    good, bad = ANSWERS[kind]
    calls = [Call("now", "{}"), Call("weather", '{"city": "Paris", "days": 3}')]
    assert whole(compiler, source, good)
    assert whole(compiler, source, syntax.write(calls), control=format.control)
    assert whole(compiler, source, syntax.write(calls[:1]), control=format.control)
    wrong = syntax.write([Call("weather", '{"city": "Oslo", "days": 3}')])
    if not (kind == "json_object" and syntax.bare):  # there a wrong call is an object all the same
        assert not whole(compiler, source, wrong, control=format.control)
    for text in (*bad, "", "Hello.", good + syntax.write(calls)):
        assert not whole(compiler, source, text, control=format.control)


def test_reasoning_comes_before_a_call_or_the_form(compiler):
    source = grammar(form(HERMES, False), TOOLS, "auto", True, Grammar("choice", FORMS["choice"]))
    for answer in ("yes", HERMES.write([Call("now", "{}")])):
        assert whole(compiler, source, f"Hm. yes or <tool_call>?</think>\n\n{answer}", thinking=True)
    assert not whole(compiler, source, "Hm.</think>\n\nperhaps", thinking=True)


@pytest.mark.parametrize("choice", ["required", "now"])
def test_a_call_that_must_be_made_leaves_no_room_for_a_form(choice):
    format, words = form(HERMES, False), Grammar("json_object")
    assert grammar(format, TOOLS, choice, True, words) == grammar(format, TOOLS, choice, True)
    assert grammar(format, TOOLS, "none", True, words) == grammar(format, [], "auto", True, words) == words


def test_a_form_that_is_wrong_is_refused_with_tools_too(compiler):
    words = Grammar("json_schema", '{"type": "object", "additonalProperties": false}')
    with pytest.raises(RequestError, match="additonalProperties"):
        compiler.compile(grammar(form(HERMES, False), TOOLS, "auto", True, words))


def test_llamas_tag_may_come_before_a_call(vocabulary):
    format = form(LLAMA, True)
    source = grammar(format, STRICT, "auto", True).source
    prefix = [5, *vocabulary.encode('{"name": "now')]
    assert calls_in(format, vocabulary.decode(walk(vocabulary, source, 1, prefix=prefix), format.control))[1]
    assert not matcher(vocabulary, source).consume_tokens([5, *vocabulary.encode("print")])


def test_reasoning_comes_before_calls_that_must_be_made(vocabulary):
    found = GrammarCompiler(vocabulary.tokenizer).compile(
        grammar(form(HERMES, False), TOOLS, "now"), thinking=True
    )

    def write(text: str) -> None:
        for token in vocabulary.tokenizer.encode(text, add_bos=False):
            found.accept(token)

    write("Hm. <tool_call> or not?")
    assert not found.done
    write('</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>')
    assert found.done
    assert found.error is None


def test_nothing_is_asked_of_an_answer_that_may_be_any_text():
    format = form(HERMES, False)
    assert grammar(format, TOOLS, "none") is None
    assert grammar(format, [], "auto") is None
    assert grammar(form(LLAMA, False), TOOLS, "auto") is None
    assert grammar(format, TOOLS, "auto", parallel=False) is not None


def test_what_cannot_be_called_is_refused():
    format = form(HERMES, False)
    with pytest.raises(RequestError, match="tool_choice names 'other'"):
        grammar(format, TOOLS, "other")
    with pytest.raises(RequestError, match="parameters of the function 'f' are of type 'array'"):
        grammar(format, [tool("f", {"type": "array"})], "required")


def test_a_strict_function_is_taken_at_its_word(vocabulary):
    odd = closed(a={"type": "string", "format": "no-such-format"})
    lenient, strict = (
        grammar(form(HERMES, False), [tool("f", odd, strict=strict)], "required").source
        for strict in (False, True)
    )
    assert not LLMatcher.validate_grammar(lenient, vocabulary.llg)
    assert "no-such-format" in LLMatcher.validate_grammar(strict, vocabulary.llg)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": ["object", "null"]},
        {"$ref": "#/$defs/a", "$defs": {"a": closed(x={"type": "integer"})}},
        {"x-guidance": {"lenient": True}, **closed(a={"type": "boolean"})},
        closed(**{'"}\n%regex /(/': {"const": '</tool_call>\n" start: "x'}}),
    ],
)
@pytest.mark.parametrize("name", ["f", 'odd "name" \\ NAME', "日本"])
def test_no_schema_and_no_name_gets_out_of_its_place(vocabulary, schema, name):
    for syntax in SYNTAXES.values():
        source = grammar(form(syntax, True), [tool(name, schema, strict=True)], "required").source
        assert not LLMatcher.validate_grammar(source, vocabulary.llg)
