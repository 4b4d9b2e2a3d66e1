"""A GGUF file's tokenizer and templates, written as a folder, are the same tokenizer and templates."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from sampan.text.chat import ChatTemplate
from sampan.text.export import export_gguf
from sampan.text.tokenizer import Tokenizer

PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁",
    "a",
    "b",
    "▁a",
    "ab",
    "▁ab",
]
SENTENCEPIECE = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.scores": [-float(place) for place in range(len(PIECES))],
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 6],
}
MESSAGES = [{"role": "user", "content": "a\nb"}]
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role }}:\r\n{{ m.content }}{{ eos_token }}{% endfor %}"
FACTS = ("vocab_size", "bos_id", "eos_ids", "adds_bos", "bos_text", "eos_text", "strip_left", "special_ids")


def exported(metadata: Any, folder: Path) -> Tokenizer:
    """The tokenizer of the folder that `sampan quantize` makes of this metadata."""
    (folder / "config.json").write_text(json.dumps(export_gguf(metadata, folder)))
    return Tokenizer.from_folder(folder)


def same(found: Tokenizer, expected: Tokenizer) -> None:
    assert {name: getattr(found, name) for name in FACTS} == {name: getattr(expected, name) for name in FACTS}


def test_every_family_keeps_its_ids(trained: Any, corpus: list[str], tmp_path: Path) -> None:
    expected = Tokenizer.from_gguf(trained.metadata)
    found = exported(trained.metadata, tmp_path)
    same(found, expected)
    for text in [*corpus, "".join(trained.special), "x".join(trained.visible)]:
        ids = expected.encode(text)
        assert found.encode(text) == ids
        assert found.encode(text, special=False) == expected.encode(text, special=False)
        assert found.decode(ids, skip_special=False) == expected.decode(ids, skip_special=False)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert [theirs.encode(text, add_special_tokens=False) for text in corpus] == [
        expected.encode(text, add_bos=False) for text in corpus
    ]


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("bos", [True, False])
def test_sentencepiece_keeps_its_spaces_and_bytes(prefix: bool, bos: bool, tmp_path: Path) -> None:
    given = {"tokenizer.ggml.add_space_prefix": prefix, "tokenizer.ggml.add_bos_token": bos}
    expected = Tokenizer.from_gguf(SENTENCEPIECE | given)
    found = exported(SENTENCEPIECE | given, tmp_path)
    same(found, expected)
    assert (found.adds_bos, found.strip_left) == (bos, int(prefix))
    for text in ("ab", " ab  b", "é\n", "", "</s>a"):
        ids = expected.encode(text)
        assert found.encode(text) == ids
        assert found.decode(ids) == expected.decode(ids)


@pytest.mark.parametrize("named", [{}, {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 5}])
def test_templates_render_the_same(named: dict[str, int], tmp_path: Path) -> None:
    """Its special tokens too, where the file names them and where they are only defaults."""
    templates = {
        "tokenizer.chat_template": TEMPLATE,
        "tokenizer.chat_template.tool_use": "tools {{ tools | length }}\n",
    }
    metadata = SENTENCEPIECE | named | templates
    same(exported(metadata, tmp_path), Tokenizer.from_gguf(metadata))
    found, expected = ChatTemplate.from_folder(tmp_path), ChatTemplate.from_gguf(metadata)
    assert found is not None
    assert expected is not None
    assert found.render(MESSAGES) == expected.render(MESSAGES)
    assert found.render(MESSAGES, tools=[{"name": "t"}]) == expected.render(MESSAGES, tools=[{"name": "t"}])


def test_a_model_without_template_or_end_stays_without(tmp_path: Path) -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab"],
        "tokenizer.ggml.merges": ["a b"],
    }
    found = exported(metadata, tmp_path)
    same(found, Tokenizer.from_gguf(metadata))
    assert (found.bos_id, found.eos_ids) == (None, frozenset())
    assert ChatTemplate.from_folder(tmp_path) is None
