"""Grammars follow the bytes that tokens add to an answer's text, whatever the vocabulary makes of them."""

import json
import random
import unicodedata
from typing import Any

import jsonschema
import numpy as np
import pytest

from sampan.core.types import Grammar
from sampan.text.grammar.compiler import GrammarCompiler
from sampan.text.tokenizer import Tokenizer

NAMES = ["Résumé 日本.pdf", "b c", "5 \u2126", "Re\u0301sume\u0301", "\u1112\u1161\u11ab", "\u212b", "▁x"]
SCHEMA = {
    "type": "object",
    "properties": {"näme": {"enum": NAMES}, "n": {"const": "5 \u2126"}},
    "required": ["näme", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["folder", "metaspace", "gguf"])
def compiler(request: pytest.FixtureRequest, sentencepiece: Any, tmp_path_factory: Any) -> GrammarCompiler:
    """As Llama 2 publishes it, as newer conversions have it, and as a GGUF file."""
    found = sentencepiece.write(tmp_path_factory.mktemp("llama"))
    if request.param == "gguf":
        return GrammarCompiler(Tokenizer.from_gguf(found.metadata))
    if request.param == "metaspace":
        path = found.folder / "tokenizer.json"
        cut = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        written = json.loads(path.read_text("utf-8")) | {"normalizer": None, "pre_tokenizer": cut}
        path.write_text(json.dumps(written), "utf-8")
    return GrammarCompiler(Tokenizer.from_folder(found.folder))


@pytest.fixture(scope="module")
def composing(trained: Any) -> GrammarCompiler:
    """Every byte-level family; Qwen's composes text (NFC) before it is cut."""
    return GrammarCompiler(Tokenizer.from_folder(trained.folder))


def allowed(mask: bytes | None) -> list[int]:
    assert mask is not None
    return np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist()


def walk(compiler: GrammarCompiler, grammar: Grammar, seed: int, *, continues: bool = False) -> str:
    """An answer of tokens chosen by chance, or as the grammar forces them, to its end."""
    constraint = compiler.compile(grammar)
    constraint.continues = continues
    rng, ids = random.Random(seed), list[int]()
    ends = compiler.tokenizer.eos_ids
    while not constraint.done and len(ids) < 300:
        found = allowed(constraint.allowed())
        assert constraint.error is None
        forced = [token for token in list(constraint.forced())[:1] if token in found]
        token = forced[0] if forced and seed % 2 else rng.choice(found)
        if token in ends:
            break
        ids.append(token)
        constraint.accept(token)
        assert constraint.error is None
    return compiler.tokenizer.decode(ids, continues=continues)


@pytest.mark.parametrize("continues", [False, True])
def test_choices_are_answered_word_for_word(compiler: GrammarCompiler, continues: bool) -> None:
    choices = ["yes", "no", " spaced", "  twice", "\ttab", *NAMES]
    grammar = Grammar("choice", json.dumps(choices))
    found = {walk(compiler, grammar, seed, continues=continues) for seed in range(120)}
    assert found <= set(choices)
    assert {"yes", "no"} < found


@pytest.mark.parametrize("choice", [*NAMES, " spaced", "  twice", "\n"])
@pytest.mark.parametrize("continues", [False, True])
def test_a_single_choice_can_be_written(compiler: GrammarCompiler, choice: str, continues: bool) -> None:
    grammar = Grammar("choice", json.dumps([choice]))
    for seed in range(4):
        assert walk(compiler, grammar, seed, continues=continues) == choice


def test_objects_keep_their_schema(compiler: GrammarCompiler) -> None:
    for seed in range(12):
        answer = walk(compiler, Grammar("json_schema", json.dumps(SCHEMA)), seed, continues=seed % 3 == 0)
        jsonschema.validate(json.loads(answer), SCHEMA)


def test_any_object_and_regular_expressions(compiler: GrammarCompiler) -> None:
    assert walk(compiler, Grammar("json_object"), 3, continues=True)[0] == "{"
    for seed in range(6):
        assert walk(compiler, Grammar("regex", "[a-z]{2,4}é日\U00013080"), seed)[-3:] == "é日\U00013080"


def test_where_a_text_begins_the_space_before_it_is_no_part_of_it(compiler: GrammarCompiler) -> None:
    tokenizer = compiler.tokenizer
    spaced, plain = tokenizer.encode("the", add_bos=False), tokenizer.spell(b"the")
    assert [tokenizer.token_text(token) for token in spaced] == ["▁the"]
    constraint = compiler.compile(Grammar("regex", "(the|a) end"))
    assert {spaced[0], plain[0]} <= set(allowed(constraint.allowed()))
    constraint.continues = True
    assert spaced[0] not in allowed(constraint.allowed())
    constraint = compiler.compile(Grammar("regex", " (the|a) end"))
    assert spaced[0] not in allowed(constraint.allowed())
    constraint.continues = True
    assert spaced[0] in allowed(constraint.allowed())


def test_bytes_and_characters_of_the_same_text_are_both_allowed(compiler: GrammarCompiler) -> None:
    entries = compiler.tokenizer.entries()
    constraint = compiler.compile(Grammar("regex", "[A-Z]+"))
    assert {entries["A"], entries["<0x41>"]} <= set(allowed(constraint.allowed()))
    constraint.accept(entries["<0x41>"])
    assert constraint.error is None
    assert {entries["B"], entries["<0x42>"]} <= set(allowed(constraint.allowed()))


def test_text_that_normalising_changes_is_written_as_it_is(composing: GrammarCompiler) -> None:
    assert any(unicodedata.normalize("NFC", name) != name for name in NAMES)
    for name in NAMES:
        for seed in (1, 2):
            assert walk(composing, Grammar("choice", json.dumps([name])), seed) == name
    schema = json.dumps(SCHEMA)
    for seed in range(4):
        jsonschema.validate(json.loads(walk(composing, Grammar("json_schema", schema), seed)), SCHEMA)


def test_spelling_gives_exactly_the_bytes(compiler: GrammarCompiler) -> None:
    tokenizer = compiler.tokenizer
    for text in (*NAMES, "", " ", "a b", "</s>", "<0x41>", "▁"):
        ids = tokenizer.spell(text.encode())
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
        assert not tokenizer.special_ids & set(ids)
    assert tokenizer.spell("a</s>é".encode(), special=True)[-2:] == [2, tokenizer.entries()["é"]]
    assert tokenizer.spell(b"\xe6\x97") == [tokenizer.entries()[f"<0x{byte:02X}>"] for byte in b"\xe6\x97"]
