"""Adapters and weights at run time: by name in one batch, over restarts, and for administrators only."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from sampan.core.types import ModelFiles
from sampan.weights.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from conftest import Running, Serve

MODEL = "smollm2-135m"


@pytest.fixture(scope="module")
def folders(
    default_model: ModelFiles, write_adapter: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    c = open_checkpoint(default_model).config
    sizes = {"gate_proj": (c.ffn, c.hidden), "down_proj": (c.hidden, c.ffn)}
    shapes = {
        f"model.layers.{layer}.mlp.{name}.weight": shape
        for layer in range(c.layers)
        for name, shape in sizes.items()
    }
    made = {name: tmp_path_factory.mktemp(name) for name in ("poet", "clerk")}
    for seed, folder in enumerate(made.values(), 1):
        write_adapter(folder, shapes, seed=seed, size=0.08, targets=tuple(sizes))
    return made


@pytest.fixture(scope="module")
def adaptable(serve: "Serve", folders: dict[str, Path]) -> Iterator["Running"]:
    with serve(
        "--adapter", f"poet={folders['poet']}", "--max-adapters", "2", "--adapter-rank", "8"
    ) as running:
        yield running


def _answer(running: "Running", model: str) -> str:
    body: Any = {"model": model, "prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
    answer = httpx.post(f"{running.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def _post(running: "Running", call: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{running.url}/v1/{call}", json=body, timeout=60)


def test_an_adapter_is_a_model(adaptable: "Running", folders: dict[str, Path]) -> None:
    assert [model.id for model in adaptable.openai.models.list()] == [MODEL, "poet"]
    alone = {model: _answer(adaptable, model) for model in (MODEL, "poet")}
    assert alone[MODEL] != alone["poet"]
    done = _post(adaptable, "load_lora_adapter", lora_name="clerk", lora_path=str(folders["clerk"]))
    assert done.json()["models"] == [MODEL, "poet", "clerk"]
    alone["clerk"] = _answer(adaptable, "clerk")
    names = [MODEL, "poet", "clerk"] * 4
    with ThreadPoolExecutor(12) as clients:
        together = list(clients.map(lambda name: _answer(adaptable, name), names))
    assert together == [alone[name] for name in names]
    assert _post(adaptable, "unload_lora_adapter", lora_name="clerk").status_code == 200
    with pytest.raises(AssertionError, match="not served"):
        _answer(adaptable, "clerk")


def test_what_cannot_be_loaded_is_refused(adaptable: "Running", tmp_path: Path) -> None:
    assert _post(adaptable, "load_lora_adapter", lora_name="x", lora_path=str(tmp_path)).status_code == 400
    assert _post(adaptable, "load_lora_adapter", lora_name="poet", lora_path="/x").status_code == 409
    assert _post(adaptable, "load_lora_adapter", lora_name="a b", lora_path="/x").status_code == 400
    assert _post(adaptable, "unload_lora_adapter", lora_name="nobody").status_code == 404
    assert _post(adaptable, "update_weights", path=str(tmp_path / "none.safetensors")).status_code == 400
    assert _answer(adaptable, MODEL)


def test_new_weights_have_a_version_and_outlive_the_engine(
    serve: "Serve", folders: dict[str, Path], default_model: ModelFiles, tmp_path: Path
) -> None:
    hidden = open_checkpoint(default_model).config.hidden
    file = tmp_path / "new.safetensors"
    save_file({"model.norm.weight": np.linspace(-1, 1, hidden, dtype=np.float32)}, file)
    with serve("--adapter", f"poet={folders['poet']}", "--adapter-rank", "8") as running:
        before = _answer(running, MODEL)
        assert _post(running, "update_weights", path=str(file)).json()["weights_version"] == 1
        changed = {model: _answer(running, model) for model in (MODEL, "poet")}
        assert changed[MODEL] != before
        body: Any = {"model": MODEL, "prompt": "a", "max_tokens": 1}
        answer = httpx.post(f"{running.url}/v1/completions", json=body)
        assert answer.headers["x-weights-version"] == "1"
        assert answer.json()["system_fingerprint"].endswith("-v1")
        running.engine.kill()
        assert running.wait(running.answers, 20)
        assert {model: _answer(running, model) for model in (MODEL, "poet")} == changed


def test_only_administrators_change_the_model(serve: "Serve", tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keys = {}
    for name, options in (("user", []), ("root", ["--admin"])):
        words = [
            sys.executable,
            "-m",
            "sampan",
            "keys",
            "create",
            name,
            "--file",
            str(file),
            "--json",
            *options,
        ]
        keys[name] = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["key"]
    with serve("--api-key-file", str(file)) as running:
        statuses = {}
        for name, key in keys.items():
            headers = {"authorization": f"Bearer {key}"}
            answer = httpx.post(
                f"{running.url}/v1/update_weights", json={"path": "/nowhere"}, headers=headers, timeout=30
            )
            statuses[name] = answer.status_code
        assert statuses == {"user": 403, "root": 400}


def test_an_adapter_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "sampan", "serve", "--port", "0", "--adapter", "poet=/nowhere"]
    words += ["--database", f"sqlite:///{tmp_path / 'usage.db'}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "/nowhere" in done.stderr


@pytest.mark.parametrize(
    "path", ["/" + "a" * 300, "a" * 4000, "/proc/1/root/x", "/etc/passwd", "/dev/zero", "/"]
)
@pytest.mark.parametrize("call", ["update_weights", "load_lora_adapter"])
def test_every_change_has_an_answer(administered: "Running", path: str, call: str) -> None:
    body = {"path": path} if call == "update_weights" else {"lora_name": "x", "lora_path": path}
    answer = httpx.post(f"{administered.url}/v1/{call}", json=body, timeout=20)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert "\n" not in message
    assert len(message) < 400
    assert "root:" not in message


@pytest.fixture(scope="module")
def administered(serve: "Serve") -> Iterator["Running"]:
    """A service that takes adapters; SIGTERM must end it at once though changes were refused."""
    with serve("--max-adapters", "1") as running:
        yield running
        started = time.monotonic()
    assert time.monotonic() - started < 10
