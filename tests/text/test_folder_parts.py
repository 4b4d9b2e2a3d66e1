"""Folders without tokenizer.json: a vocabulary made of tokenizer.model, or of vocab.json and merges.txt."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.core.errors import TokenizerError, UnsupportedModel
from sampan.text.tokenizer import Tokenizer

TEXTS = ["", " ", "a", " two  spaces", "<s> x</s>", "▁▁", "日本 naïve\n\n\tend", "<0x41>", "\r\n 👩‍👩‍👧"]
UNKNOWN, CONTROL, BYTE, NORMAL = 2, 3, 6, 1


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes | float) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def model_file(
    vocab: dict[str, int], *, kind: int = 2, normalizer: bytes = field(1, b"identity") + field(4, 0)
) -> bytes:
    """What SentencePiece writes of a vocabulary whose merged pieces stand in their order."""
    kinds = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    out = b""
    for rank, piece in enumerate(sorted(vocab, key=lambda piece: vocab[piece])):
        own = BYTE if piece.startswith("<0x") else kinds.get(piece, NORMAL)
        score = 258.0 - rank if own == NORMAL else 0.0
        typed = b"" if own == NORMAL else field(3, own)  # the default is left out
        out += field(1, field(1, piece.encode()) + field(2, score) + typed)
    trainer = field(3, kind) + field(35, 1) + field(40, 0) + field(41, 1) + field(42, 2) + field(43, -1)
    return out + field(2, trainer) + field(3, normalizer)


@pytest.fixture
def folder(tmp_path: Path, llama: Any) -> Path:
    """Nothing but a `tokenizer.model`."""
    (tmp_path / "tokenizer.model").write_bytes(model_file(llama.vocab))
    return tmp_path


def test_tokenizer_model_gives_what_its_tokenizer_json_gives(
    folder: Path, llama: Any, corpus: list[str]
) -> None:
    (folder / "tokenizer_config.json").write_bytes((llama.folder / "tokenizer_config.json").read_bytes())
    tokenizer = Tokenizer.from_folder(folder)
    for text in [*corpus, *TEXTS]:
        ids = tokenizer.encode(text)
        assert ids == llama.oracle.encode(text), text
        assert tokenizer.decode(ids) == llama.oracle.decode(ids, skip_special_tokens=True)
    assert (tokenizer.bos_text, tokenizer.eos_text, tokenizer.vocab_size) == ("<s>", "</s>", len(llama.vocab))


def test_tokenizer_model_alone_names_its_own_entries(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.adds_bos) == (1, {2}, True)
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": false, "add_eos_token": true}')
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode("a", closed=True) == [*tokenizer.encode("a"), 2]
    assert tokenizer.encode("a")[0] != 1


def test_entries_are_added_to_tokenizer_model(folder: Path, llama: Any) -> None:
    size = len(llama.vocab)
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_start|>": size, "<|im_end|>": size + 1}))
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode("<|im_start|><|im_end|>") == [1, size, size + 1]
    assert tokenizer.eos_ids == {2, size + 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": 4}, "model_type char is not supported: bpe and unigram are"),
        (
            {"normalizer": field(1, b"nmt_nfkc") + field(2, b"x") + field(4, 0)},
            "normalises texts .'nmt_nfkc'",
        ),
        ({"normalizer": b""}, "normalises texts"),
    ],
)
def test_another_kind_of_tokenizer_model_is_refused(
    folder: Path, llama: Any, changes: dict[str, Any], message: str
) -> None:
    (folder / "tokenizer.model").write_bytes(model_file(llama.vocab, **changes))
    with pytest.raises(UnsupportedModel, match=message):
        Tokenizer.from_folder(folder)


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 3000), more=st.binary(max_size=12))
def test_a_damaged_tokenizer_model_is_refused(llama: Any, cut: int, more: bytes) -> None:
    whole = model_file(llama.vocab)
    place = llama.folder / "damaged"
    place.mkdir(exist_ok=True)
    (place / "tokenizer.model").write_bytes(whole[:cut] + more)
    try:
        Tokenizer.from_folder(place)
    except (TokenizerError, UnsupportedModel) as error:
        assert "\n" not in str(error)  # noqa: PT017 - what is cut between two fields may be a whole file


def test_text_is_no_tokenizer_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")  # tiktoken's form, of the same name
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: is no SentencePiece model"):
        Tokenizer.from_folder(tmp_path)


CLASSES = {"qwen2": transformers.Qwen2Tokenizer, "gpt-2": transformers.GPT2Tokenizer}


@pytest.fixture
def parts(trained: Any, tmp_path: Path) -> Path:
    """A published folder of a family that has a class of its own, with vocab.json and merges.txt."""
    published = json.loads((trained.folder / "tokenizer.json").read_text("utf-8"))
    model, added = published["model"], published["added_tokens"]
    vocab = json.dumps(model["vocab"], ensure_ascii=False)
    (tmp_path / "vocab.json").write_text(vocab, "utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    entries = {entry["id"]: {name: entry[name] for name in entry if name != "id"} for entry in added}
    named = {name: entries[max(entries)]["content"] for name in ("eos_token", "unk_token", "pad_token")}
    config = {"tokenizer_class": CLASSES[trained.name].__name__, "bos_token": None} | named
    config["added_tokens_decoder"] = entries
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return tmp_path


@pytest.mark.parametrize("trained", CLASSES, indirect=True)
def test_vocab_and_merges_give_what_transformers_makes_of_them(
    parts: Path, trained: Any, corpus: list[str]
) -> None:
    oracle = CLASSES[trained.name].from_pretrained(parts)
    tokenizer = Tokenizer.from_folder(parts)
    for text in [*corpus, *TEXTS, *trained.special, *trained.visible]:
        ids = tokenizer.encode(text)
        assert ids == oracle.encode(text), text
        assert tokenizer.decode(ids, skip_special=False) == oracle.decode(ids)
    assert tokenizer.special_ids == {
        token for token, entry in oracle.added_tokens_decoder.items() if entry.special
    }


@pytest.mark.parametrize("trained", ["qwen2"], indirect=True)
def test_a_models_type_tells_how_texts_are_cut_where_no_class_does(parts: Path) -> None:
    expected = Tokenizer.from_folder(parts).encode("In 2026, it's 19°.")
    config = json.loads((parts / "tokenizer_config.json").read_text()) | {"tokenizer_class": "Other"}
    (parts / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="nor tokenizer_class 'Other' nor model_type 'None' tell how"):
        Tokenizer.from_folder(parts)
    (parts / "config.json").write_text('{"model_type": "qwen3"}')
    assert Tokenizer.from_folder(parts).encode("In 2026, it's 19°.") == expected


@pytest.mark.parametrize("vocab", [{}, {"a": 0, "b": 0}, {"a": "x"}, {"a": -1}, {"a": 10**9}, {"a": True}])
def test_a_damaged_vocab_json_is_refused(tmp_path: Path, vocab: dict[str, Any]) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(TokenizerError, match=r"vocab\.json: should give each entry an id of its own"):
        Tokenizer.from_folder(tmp_path)
