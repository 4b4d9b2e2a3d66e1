"""`hf:` sources, through huggingface_hub, from a hub on this machine."""

import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download

from sampan.catalog.catalog import local, remove, resolve
from sampan.core.errors import FetchError, ModelNotFound, OfflineError, UsageError
from sampan.core.settings import Settings

Make = Callable[..., Any]
Elsewhere = Callable[..., subprocess.Popen[str]]


class Meter:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.totals: list[int | None] = []
        self.done = 0
        self.open = 0

    def start(self, total: int | None, label: str) -> None:
        assert label
        self.totals.append(total)
        self.open += 1

    def advance(self, n: int) -> None:
        self.done += n

    def finish(self) -> None:
        self.open -= 1


def test_a_folder_is_fetched_once_and_only_what_is_needed(hub: Any, settings: Settings, repo: Make) -> None:
    others = dict.fromkeys(("README.md", "pytorch_model.bin", "m.gguf", "consolidated.safetensors"), b"x")
    wanted = {
        "tokenizer_config.json": b"{}",
        "generation_config.json": b"{}",
        "special_tokens_map.json": b"{}",
        "added_tokens.json": b"{}",
        "chat_template.jinja": b"{{ x }}",
        "additional_chat_templates/tool_use.jinja": b"{{ y }}",
        "modules.json": b"[]",
        "1_Pooling/config.json": b"{}",
    }
    hub.repos["a/b"] = repo(**wanted, **others, **{"original/model.safetensors": b"x"})
    meter = Meter()
    files = resolve("hf:a/b", settings, meter)
    expected = {
        name: data
        for name, data in hub.repos["a/b"].files.items()
        if name not in others and not name.startswith("original/")
    }
    found = {str(file.relative_to(files.path)) for file in files.path.rglob("*") if file.is_file()}
    assert found == {*expected, "sampan.json"}
    assert all((files.path / name).read_bytes() == data for name, data in expected.items())
    assert (files.kind, files.name, files.source) == ("folder", "hf:a/b", "hf:a/b")
    size = sum(map(len, expected.values()))
    assert (meter.totals, meter.done, meter.open) == ([size], size, 0)
    seen = len(hub.requests)
    assert resolve("hf:a/b@main", replace(settings, offline=True)).path == files.path
    assert len(hub.requests) == seen


def test_all_parts_of_a_split_gguf(hub: Any, settings: Settings, repo: Make) -> None:
    names = [f"q4/m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    hub.repos["a/b"] = repo(**{name: b"GGUF" + name.encode() for name in [*names, "q4/other.gguf"]})
    path = resolve(f"hf:a/b:{names[0]}", settings).path
    found = {f"q4/{file.name}": file.read_bytes() for file in path.parent.glob("*.gguf")}
    assert (path.name, found) == (names[0][3:], {name: b"GGUF" + name.encode() for name in names})
    with pytest.raises(ModelNotFound, match=r"one of 3 parts: name the first, q4/m-00001-of-00003.gguf"):
        resolve(f"hf:a/b:{names[1]}", settings)
    hub.repos["a/c"] = repo(**dict.fromkeys(names[:2], b"GGUF"))
    with pytest.raises(ModelNotFound, match=r"a/c lacks q4/m-00003-of-00003.gguf, of 3 parts"):
        resolve(f"hf:a/c:{names[0]}", settings)


def test_a_commit_is_a_revision(hub: Any, settings: Settings, repo: Make) -> None:
    hub.repos["a/b"] = repo()
    assert resolve(f"hf:a/b@{hub.repos['a/b'].commit}", settings).kind == "folder"


def test_the_token_stays_with_the_hub(hub: Any, settings: Settings, repo: Make) -> None:
    hub.repos["a/b"] = repo()
    hub.repos["a/b"].gated = True
    resolve("hf:a/b", replace(settings, hf_token="granted"))
    (headers,) = hub.fetched("model.safetensors")
    assert "Authorization" not in headers
    assert [headers["Authorization"] for headers in hub.fetched("config.json")] == ["Bearer granted"]


def test_a_renamed_repository_is_followed(hub: Any, settings: Settings, repo: Make) -> None:
    hub.repos["new/name"] = repo()
    hub.renamed["old/name"] = "new/name"
    assert resolve("hf:old/name", settings).source == "hf:old/name"


@pytest.mark.parametrize(
    ("model", "token", "error", "said"),
    [
        ("hf:a/gated", None, FetchError, "gated and it needs a token: accept its terms"),
        ("hf:a/gated", "other", FetchError, "gated and your HF_TOKEN has no access"),
        ("hf:a/none", None, ModelNotFound, "no such repository, or a private one"),
        ("hf:a/open@v2", None, ModelNotFound, "no branch, tag or commit 'v2'"),
        ("hf:a/open:m.gguf", None, ModelNotFound, "no such file in a/open"),
        ("hf:a/ggufs", None, ModelNotFound, "choose one of its .gguf files.*one.gguf, two.gguf"),
        ("hf:a/pickle", None, ModelNotFound, "no tokenizer.json, \\*.safetensors"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_line(
    model: str, token: str | None, error: type[Exception], said: str, hub: Any, settings: Settings, repo: Make
) -> None:
    hub.repos["a/gated"], hub.repos["a/open"], hub.repos["a/ggufs"], hub.repos["a/pickle"] = (
        repo() for _ in "1234"
    )
    hub.repos["a/gated"].gated = True
    hub.repos["a/ggufs"].files = {"one.gguf": b"", "two.gguf": b"", "config.json": b""}
    hub.repos["a/pickle"].files = {"config.json": b"", "pytorch_model.bin": b""}
    with pytest.raises(error, match=said) as caught:
        resolve(model, replace(settings, hf_token=token))
    assert model in str(caught.value)
    assert "\n" not in str(caught.value)
    assert local(settings) == ()


def test_no_network_is_one_clear_line(settings: Settings) -> None:
    with pytest.raises(
        FetchError, match=r"hf:a/b: http://127.0.0.1:9 cannot be reached.*check the connection"
    ):
        resolve("hf:a/b", replace(settings, hf_endpoint="http://127.0.0.1:9/"))


def test_offline_touches_no_network(hub: Any, settings: Settings, repo: Make, tmp_path: Path) -> None:
    hub.repos["a/b"] = repo()
    with pytest.raises(OfflineError, match=r"hf:a/b is not in .*home and .*cache.*SAMPAN_OFFLINE"):
        resolve("hf:a/b", replace(settings, offline=True, hf_cache=tmp_path / "cache"))
    assert not hub.requests


def test_a_connection_that_breaks_is_resumed(hub: Any, settings: Settings, repo: Make) -> None:
    hub.repos["a/b"] = repo(megabytes=12)
    hub.cut["model.safetensors"] = 11_000_000
    files = resolve("hf:a/b", settings)
    assert (files.path / "model.safetensors").read_bytes() == hub.repos["a/b"].files["model.safetensors"]
    assert [headers.get("Range") for headers in hub.fetched("model.safetensors")] == [None, "bytes=10485760-"]


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_fetch_that_was_stopped_is_resumed(
    kill: signal.Signals, hub: Any, settings: Settings, repo: Make, elsewhere: Elsewhere
) -> None:
    hub.repos["a/b"] = repo(megabytes=12)
    hub.stall["model.safetensors"] = 11_000_000
    with elsewhere("hf:a/b") as process:
        _wait_for(lambda: [f for f in settings.home.rglob("model*.part") if f.stat().st_size >= 10 << 20])
        process.send_signal(kill)
        process.communicate(timeout=10)
    hub.go.set()
    with pytest.raises(OfflineError):
        resolve("hf:a/b", replace(settings, offline=True))
    meter = Meter()
    files = resolve("hf:a/b", settings, meter)
    assert (files.path / "model.safetensors").read_bytes() == hub.repos["a/b"].files["model.safetensors"]
    assert hub.fetched("model.safetensors")[-1]["Range"] == "bytes=10485760-"
    assert meter.totals == [meter.done]
    assert not list(settings.home.rglob("*.part"))


def test_two_processes_fetch_once(hub: Any, settings: Settings, repo: Make, elsewhere: Elsewhere) -> None:
    hub.repos["a/b"] = repo()
    hub.stall["model.safetensors"] = 1000
    with elsewhere("hf:a/b") as first:
        _wait_for(lambda: hub.fetched("model.safetensors"))
        with elsewhere("hf:a/b") as second:
            assert second.stderr is not None
            assert "waiting for another process" in second.stderr.readline()
            hub.go.set()
            paths = [process.communicate(timeout=20)[0].strip() for process in (first, second)]
    assert paths[0] == paths[1] == str(resolve("hf:a/b", settings).path)
    assert len(hub.fetched("model.safetensors")) == 1


def test_damaged_weights_are_removed_and_fetched_again(hub: Any, settings: Settings, repo: Make) -> None:
    hub.repos["a/b"] = repo()
    hub.repos["a/b"].lies = {"model.safetensors": {"sha256": "0" * 64}}
    with pytest.raises(
        FetchError, match=f"model.safetensors has sha256 [0-9a-f]{{64}} and should have {'0' * 64}"
    ):
        resolve("hf:a/b", settings)
    assert not list(settings.home.rglob("*.safetensors*"))
    hub.repos["a/b"].lies = {}
    resolve("hf:a/b", settings)
    # What was complete is not fetched twice.
    assert len(hub.fetched("config.json")) == 1
    assert [headers.get("Range") for headers in hub.fetched("model.safetensors")] == [None, None]


def test_a_branch_that_moved_does_not_mix_with_a_partial_download(
    hub: Any, settings: Settings, repo: Make
) -> None:
    hub.repos["a/b"] = repo()
    hub.repos["a/b"].lies = {"model.safetensors": {"sha256": "0" * 64}}
    with pytest.raises(FetchError):
        resolve("hf:a/b", settings)
    hub.repos["a/b"] = repo(**{"config.json": b'{"model_type": "qwen2"}'})
    files = resolve("hf:a/b", settings)
    assert (files.path / "config.json").read_bytes() == b'{"model_type": "qwen2"}'


def test_too_little_space_is_told_before_the_download(hub: Any, settings: Settings, repo: Make) -> None:
    hub.repos["a/b"] = repo()
    hub.repos["a/b"].lies = {"model.safetensors": {"size": 10**18}}
    with pytest.raises(FetchError, match=r"free and the model needs 1000000000\.0 GB: make room"):
        resolve("hf:a/b", settings)
    assert not hub.fetched("model.safetensors")


def test_a_disk_that_fills_up_keeps_nothing(
    hub: Any, settings: Settings, repo: Make, elsewhere: Elsewhere
) -> None:
    hub.repos["a/b"] = repo(megabytes=2)
    limit = f"import resource; resource.setrlimit({resource.RLIMIT_FSIZE}, (1000000, 1000000))\n"
    with elsewhere("hf:a/b", before=limit) as process:
        _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "FetchError: no space left below" in said
    assert not [file for file in settings.home.rglob("*") if file.is_file() and file.suffix != ".lock"]


def test_a_home_that_cannot_be_written_is_one_clear_line(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="set SAMPAN_HOME to a folder you can write to"):
        resolve("hf:a/b", replace(settings, home=tmp_path / "file"))


def test_a_cached_file_that_lost_its_end_is_fetched_again(hub: Any, settings: Settings, repo: Make) -> None:
    hub.repos["a/b"] = repo()
    weights = resolve("hf:a/b", settings).path / "model.safetensors"
    weights.write_bytes(b"cut")
    with pytest.raises(OfflineError):
        resolve("hf:a/b", replace(settings, offline=True))
    resolve("hf:a/b", settings)
    assert weights.read_bytes() == hub.repos["a/b"].files["model.safetensors"]


def test_local_and_remove(hub: Any, settings: Settings, repo: Make) -> None:
    hub.repos["a/b"] = repo()
    files = resolve("hf:a/b", settings)
    size = sum(map(len, hub.repos["a/b"].files.values()))
    (found,) = local(settings)
    assert (found.source, found.path, found.kind, found.bytes) == ("hf:a/b", files.path, "folder", size)
    assert remove("hf:a/b", settings) > size
    assert local(settings) == ()
    assert not files.path.exists()
    with pytest.raises(ModelNotFound, match="not in the cache"):
        remove("hf:a/b", settings)


def test_what_the_hubs_client_has_is_used_in_place(
    hub: Any, settings: Settings, repo: Make, tmp_path: Path
) -> None:
    hub.repos["a/b"] = repo(**{"m.gguf": b"GGUF"})
    cache = tmp_path / "hub-cache"
    offline = replace(settings, hf_cache=cache, offline=True)

    def fetch(name: str) -> str:
        return hf_hub_download("a/b", name, cache_dir=cache, endpoint=hub.url)

    fetch("config.json")
    fetch("tokenizer.json")
    with pytest.raises(OfflineError):
        resolve("hf:a/b", offline)
    weights = Path(fetch("model.safetensors"))
    assert resolve("hf:a/b", offline).path == weights.parent
    assert resolve(f"hf:a/b@{hub.repos['a/b'].commit}", offline).path == weights.parent
    gguf = Path(fetch("m.gguf"))
    assert resolve("hf:a/b:m.gguf", offline).path == gguf
    with pytest.raises(UsageError, match="hub client's cache"):
        remove("hf:a/b", offline)
    assert weights.exists()


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
