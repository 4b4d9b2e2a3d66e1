"""Which files of a repository are taken: one GGUF, or one set of weights with its vocabulary."""

from collections.abc import Callable
from typing import Any

import pytest

from sampan.catalog.catalog import resolve
from sampan.core.settings import Settings

Make = Callable[..., Any]


def test_a_whole_model_is_not_fetched_twice(hub: Any, settings: Settings, repo: Make) -> None:
    parts = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    hub.repos["a/b"] = repo(**dict.fromkeys((*parts, "model.safetensors.index.json"), b"{}"))
    found = resolve("hf:a/b", settings).path.glob("*.safetensors*")
    assert [path.name for path in found] == ["model.safetensors"]


@pytest.mark.parametrize("files", [["tokenizer.model"], ["vocab.json", "merges.txt"]])
def test_without_tokenizer_json_what_it_is_made_from_is_fetched(
    hub: Any, settings: Settings, repo: Make, files: list[str]
) -> None:
    hub.repos["a/b"] = repo(**dict.fromkeys(files, b"x"))
    del hub.repos["a/b"].files["tokenizer.json"]
    path = resolve("hf:a/b", settings).path
    assert all((path / name).read_bytes() == b"x" for name in files)
    hub.repos["a/c"] = repo(**dict.fromkeys(files, b"x"))
    path = resolve("hf:a/c", settings).path
    assert (path / "tokenizer.json").is_file()
    assert not (path / files[0]).exists()


def test_one_gguf_of_many(hub: Any, settings: Settings, repo: Make) -> None:
    hub.repos["a/b"] = repo(**{"q4/m.gguf": b"GGUF four", "q8/m.gguf": b"GGUF eight"})
    files = resolve("hf:a/b:q8/m.gguf", settings)
    assert (files.kind, files.path.read_bytes()) == ("gguf", b"GGUF eight")
    assert not hub.fetched("model.safetensors")
