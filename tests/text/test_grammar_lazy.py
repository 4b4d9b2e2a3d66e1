"""Text is free until a call begins; what was begun is a true call, whatever tokens are chosen."""

import json
import random
from typing import Any

import numpy as np
import pytest

from sampan.core.types import Grammar, ModelFiles
from sampan.text.grammar.compiler import AnyConstraint, GrammarCompiler
from sampan.text.tokenizer import Tokenizer
from sampan.text.tools import CallPiece, TextPiece, ToolFormat, ToolParser, grammar, looseness
from sampan.text.tools.deepseek import DEEPSEEK, DEEPSEEK_V31
from sampan.text.tools.json_call import HERMES, LLAMA
from sampan.text.tools.syntax import Syntax
from sampan.weights.gguf import read_gguf

LOOK = {
    "properties": {"place": {"enum": ["here", "there"]}, "near": {"type": "boolean"}},
    "required": ["place"],
}
TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": LOOK}},
    {"type": "function", "function": {"name": "now"}},
]


@pytest.fixture(scope="module")
def compiler(default_model: ModelFiles) -> GrammarCompiler:
    return GrammarCompiler(Tokenizer.from_gguf(read_gguf(default_model.path).metadata))


def free(syntax: Syntax) -> Grammar:
    found = grammar(ToolFormat(syntax, True, True), TOOLS)
    assert found is not None
    return found


def write(constraint: AnyConstraint, tokenizer: Tokenizer, text: str) -> None:
    for token in tokenizer.encode(text, add_bos=False):
        constraint.accept(token)


def walked(constraint: AnyConstraint, tokenizer: Tokenizer, seed: int) -> str:
    """A text of tokens chosen by chance, until all are allowed."""
    rng, chosen = random.Random(seed), list[int]()
    while (mask := constraint.allowed()) is not None:
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
        chosen.append(int(rng.choice(np.flatnonzero(bits))))
        constraint.accept(chosen[-1])
        assert len(chosen) < 300
    return tokenizer.decode(chosen, skip_special=False)


@pytest.mark.parametrize("syntax", [HERMES, DEEPSEEK, DEEPSEEK_V31], ids=lambda syntax: syntax.name)
def test_what_comes_behind_an_opener_is_a_call(compiler: GrammarCompiler, syntax: Syntax) -> None:
    tokenizer, source = compiler.tokenizer, free(syntax)
    for seed in range(8):
        constraint = compiler.compile(source)
        text = ""
        for words in ("I shall look.\n", "Once more: "):
            for token in tokenizer.encode(words + syntax.openers[0], add_bos=False):
                assert constraint.allowed() is None
                assert not constraint.forced()
                constraint.accept(token)
            text += words + syntax.openers[0] + walked(constraint, tokenizer, seed)
        write(constraint, tokenizer, "Done.")
        assert (constraint.allowed(), constraint.done, constraint.error) == (None, False, None)
        parser = ToolParser(ToolFormat(syntax, True, True), ["look", "now"], loose=looseness(source))
        pieces = parser.push(text) + parser.finish(cut=False)
        named = [piece for piece in pieces if isinstance(piece, CallPiece) and piece.name]
        assert len(named) >= 2
        for call in named:
            own = [p.arguments for p in pieces if isinstance(p, CallPiece) and p.index == call.index]
            arguments = json.loads("".join(own))
            assert arguments.keys() <= ({"place", "near"} if call.name == "look" else set())
            assert call.name == "now" or arguments["place"] in ("here", "there")
        words = "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))
        assert syntax.openers[0] not in words


def test_a_token_that_goes_on_behind_the_opener_is_the_beginning_of_the_call(
    compiler: GrammarCompiler,
) -> None:
    tokenizer = compiler.tokenizer
    source = Grammar("choice", '["e boat", "ey"]', after=" th")
    the, this = (tokenizer.encode(text, add_bos=False) for text in (" the", " this"))
    assert len(the) == len(this) == 1
    for first, rest in ((the, " boat"), (this, None)):
        constraint = compiler.compile(source)
        constraint.accept(first[0])
        assert (constraint.allowed() is None) == (rest is None)
        assert rest is None or walked(constraint, tokenizer, 1) == rest
        assert constraint.error is None


def test_what_is_thought_begins_no_call(compiler: GrammarCompiler) -> None:
    tokenizer = compiler.tokenizer
    for thinking, thought in ((True, "A <tool_call>?"), (False, "<think>A <tool_call>?")):
        constraint = compiler.compile(free(HERMES), thinking=thinking)
        write(constraint, tokenizer, thought)
        assert constraint.allowed() is None
        write(constraint, tokenizer, "</think>Yes. <tool_call>")
        assert constraint.allowed() is not None


def test_a_copy_goes_on_by_itself(compiler: GrammarCompiler) -> None:
    tokenizer, first = compiler.tokenizer, compiler.compile(free(HERMES))
    write(first, tokenizer, "Well. <tool")
    second = first.copy()
    write(first, tokenizer, "_call>")
    third = first.copy()
    assert second.allowed() is None
    assert third.allowed() == first.allowed() is not None
    walked(first, tokenizer, 2)
    assert first.allowed() is None
    assert third.allowed() is not None


@pytest.mark.parametrize("pattern", ["(", "(a{1,200}){1,200}"])
def test_functions_that_make_no_grammar_are_called_freely(compiler: GrammarCompiler, pattern: str) -> None:
    tools: Any = [{"type": "function", "function": {
        "name": "f", "parameters": {"properties": {"a": {"type": "string", "pattern": pattern}}},
    }}]  # fmt: skip
    source = grammar(ToolFormat(HERMES, True, True), tools)
    assert source is not None
    for _ in range(2):
        constraint = compiler.compile(source)
        write(constraint, compiler.tokenizer, "<tool_call>")
        assert (constraint.allowed(), constraint.error) == (None, None)
        assert compiler.known(source)
    assert grammar(ToolFormat(HERMES, True, True), [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}
    ]) is None  # fmt: skip


def test_where_a_call_begins_as_any_answer_may_all_is_free() -> None:
    assert grammar(ToolFormat(LLAMA, True, True), TOOLS) is None
