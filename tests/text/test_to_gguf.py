"""A folder's tokenizer and templates, told in GGUF's keys, are the same tokenizer and templates."""

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.core.errors import UnsupportedModel
from sampan.text.chat import ChatTemplate
from sampan.text.tokenizer import Tokenizer
from sampan.text.vocab.to_gguf import gguf_keys

ROWS = 6000
SAME_CUT = {"deepseek-r1-qwen": "qwen2"}  # ways that have two names
FACTS = ("bos_id", "adds_bos", "bos_text", "eos_text", "strip_left")


def same(found: Tokenizer, expected: Tokenizer, texts: list[str]) -> None:
    assert {name: getattr(found, name) for name in FACTS} == {name: getattr(expected, name) for name in FACTS}
    assert found.eos_ids >= expected.eos_ids  # GGUF counts more entries, by their names
    assert [found.encode(text) for text in texts] == [expected.encode(text) for text in texts]
    for text in texts:
        ids = expected.encode(text)
        assert found.decode(ids, skip_special=False) == expected.decode(ids, skip_special=False)


def test_every_family_keeps_its_ids(trained: Any, corpus: list[str]) -> None:
    keys = gguf_keys(trained.folder, ROWS)
    given = str(trained.metadata["tokenizer.ggml.pre"])
    assert keys["tokenizer.ggml.pre"] == SAME_CUT.get(given, given)
    assert len(keys["tokenizer.ggml.tokens"]) == len(keys["tokenizer.ggml.token_type"]) == ROWS
    assert keys["tokenizer.ggml.tokens"][ROWS - 1] == f"[PAD{ROWS - 1}]"
    for name in ("merges", "tokens", "token_type"):
        given = list(trained.metadata[f"tokenizer.ggml.{name}"])
        assert list(keys[f"tokenizer.ggml.{name}"])[: len(given)] == given
    texts = [*corpus, "".join(trained.special), "x".join(trained.visible)]
    same(Tokenizer.from_gguf(keys), Tokenizer.from_folder(trained.folder), texts)


def test_sentencepiece_keeps_its_ids(llama: Any, corpus: list[str]) -> None:
    rows = len(llama.vocab)
    keys = gguf_keys(llama.folder, rows)
    assert keys["tokenizer.ggml.model"] == "llama"
    assert list(keys["tokenizer.ggml.token_type"]) == list(llama.metadata["tokenizer.ggml.token_type"])
    same(Tokenizer.from_gguf(keys), Tokenizer.from_folder(llama.folder), corpus)
    found, expected = ChatTemplate.from_gguf(keys), ChatTemplate.from_folder(llama.folder)
    assert found is not None
    assert expected is not None
    messages = [{"role": "user", "content": "a\nb"}]
    assert found.render(messages) == expected.render(messages)


def test_templates_are_kept_by_name(llama: Any, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((llama.folder / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ messages[0].content }}\n")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    keys = gguf_keys(tmp_path, len(llama.vocab))
    assert keys["tokenizer.chat_template"] == "{{ messages[0].content }}\n"
    assert keys["tokenizer.chat_template.tool_use"] == "tools"


def test_what_gguf_cannot_tell_is_refused(llama: Any, tmp_path: Path) -> None:
    tokenizer = json.loads((llama.folder / "tokenizer.json").read_text())
    with pytest.raises(UnsupportedModel, match=r"has an entry \d+, and the model 100 rows"):
        gguf_keys(llama.folder, 100)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "Lowercase"}}))
    with pytest.raises(UnsupportedModel, match=r"no form in GGUF: .*ids of texts would differ"):
        gguf_keys(tmp_path, len(llama.vocab))


def test_a_way_of_cutting_without_a_name_is_refused(trained: Any, tmp_path: Path) -> None:
    tokenizer = json.loads((trained.folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "use_regex": False,
        "trim_offsets": True,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UnsupportedModel, match="cuts texts in none of the ways"):
        gguf_keys(tmp_path, ROWS)
