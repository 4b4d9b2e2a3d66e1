"""Fixtures that every folder shares: the real default model, and a cache of one's own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sampan.catalog.catalog import resolve
from sampan.core.openmp import wait_briefly
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.models.registry import load_file

wait_briefly()  # before a test imports PyTorch by itself
# No test tells the hub, or waits to tell it, which programs run it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Nor does one depend on what this machine measures, unless it says so.
os.environ["SAMPAN_TUNE"] = "0"

_READ = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "SAMPAN_OFFLINE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Deltas = dict[str, tuple[np.ndarray, np.ndarray]]
"""A and B by module."""


@pytest.fixture(scope="session")
def write_adapter() -> Callable[..., Deltas]:
    """`write_adapter(folder, shapes)`: a random LoRA adapter as PEFT writes it, for weights of these shapes.

    `targets`: which linears, by the end of their names. `size`: of its entries, with a trained model's the
    size of an adapter that changes most answers.
    """

    def write(
        folder: Path, shapes: Mapping[str, tuple[int, ...]], *, rank: int = 4, alpha: float = 8,
        targets: tuple[str, ...] = LINEARS, ranks: Mapping[str, int] | None = None, seed: int = 0,
        dtype: Any = np.float32, size: float = 0.1, **config: Any,
    ) -> Deltas:  # fmt: skip
        from safetensors.numpy import save_file

        rng, deltas = np.random.default_rng(seed), {}
        for name, shape in shapes.items():
            module = name.removesuffix(".weight")
            if module.split(".")[-1] in targets:
                r = next((n for end, n in (ranks or {}).items() if module.endswith(end)), rank)
                a, b = rng.normal(0, size, (r, shape[1])), rng.normal(0, size, (shape[0], r))
                deltas[module] = a.astype(dtype), b.astype(dtype)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for module, (a, b) in deltas.items():
            tensors[f"base_model.model.{module}.lora_A.weight"] = a
            tensors[f"base_model.model.{module}.lora_B.weight"] = b
        save_file(tensors, folder / "adapter_model.safetensors")
        fields = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "some/model", "r": rank,
            "lora_alpha": alpha, "target_modules": list(targets), "rank_pattern": dict(ranks or {}),
            "bias": "none", "use_dora": False, "modules_to_save": None, "inference_mode": True,
            "lora_dropout": 0.05, "fan_in_fan_out": False, "init_lora_weights": True, "loftq_config": {},
        }  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(fields | config))
        return deltas

    return write


@pytest.fixture(scope="session")
def default_model() -> ModelFiles:
    """SmolLM2-135M-Instruct (Q4_1), through the real catalogue and into the user's real cache."""
    return resolve("smollm2-135m", Settings.from_env())


@pytest.fixture(scope="session")
def mixture(default_model: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Qwen3-MoE in GGUF: 3 layers of 16 experts, of which a token goes through 4, and the
    default model's vocabulary."""
    assert default_model.path.is_file()
    out = tmp_path_factory.mktemp("mixture") / "mixture.gguf"
    sizes = "--layers 3 --hidden 128 --heads 2 --kv-heads 1 --experts 16 --chosen 4 --ffn 64"
    writer = Path(__file__).parents[1] / "benchmarks" / "random_experts.py"
    subprocess.run([sys.executable, str(writer), str(out), *sizes.split()], check=True, capture_output=True)
    return out


@pytest.fixture
def own_families(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `families`, whose files are families here and in processes started meanwhile."""
    folder = Path(__file__).parent / "families"
    monkeypatch.setenv("SAMPAN_FAMILIES", os.pathsep.join(map(str, sorted(folder.glob("*.py")))))
    return folder


@pytest.fixture
def parallel(own_families: Path, tmp_path: Path) -> Callable[..., tuple[ModelFiles, Any, Any]]:
    """`parallel(dtype="F32", seed=0)`: a tiny random model of `families/parallel.py` in a folder that can be
    loaded and served, the tensors of its file by name, and what gives its logits: `logits(tensors, ids)`."""

    def make(dtype: str = "F32", seed: int = 0) -> tuple[ModelFiles, Any, Any]:
        family = load_file(own_families / "parallel.py")
        folder = tmp_path / f"parallel-{dtype}-{seed}"
        tensors = family.write(folder, dtype, seed)
        return ModelFiles(folder, "folder", "parallel", str(folder)), tensors, family.logits

    return make


@pytest.fixture(scope="session")
def vectors() -> Any:
    """`vectors.py`: what writes tiny models that embed or rerank."""
    return load_file(Path(__file__).parent / "vectors.py")


@pytest.fixture
def sampan_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `SAMPAN_HOME`, with nothing of the user's own settings or caches in reach."""
    for name in _READ:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("SAMPAN_HOME", str(home))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    return home


@pytest.fixture(scope="session")
def packers() -> Any:
    """`tests/packers.py`."""
    return load_file(Path(__file__).parent / "packers.py")


@pytest.fixture(scope="session")
def predicted() -> Any:
    """`predicted.py`: what writes tiny models with a layer for multi-token prediction."""
    return load_file(Path(__file__).parent / "predicted.py")


@pytest.fixture(scope="session")
def sentencepiece() -> Any:
    """`sentencepiece.py`: what writes a small vocabulary of SentencePiece's kind."""
    return load_file(Path(__file__).parent / "sentencepiece.py")


def _executable() -> str | None:
    found = os.environ.get("SAMPAN_CHROMIUM") or next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("no Chromium: install one or name it in SAMPAN_CHROMIUM")
    return found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's Chromium, headless: a Playwright `Browser`. Skips where there is none, and fails where
    `CI` is true.

    Not for the session: while Playwright runs, no other test may run an event loop.
    """
    executable = _executable()
    if executable is None:
        pytest.skip("no Chromium was found; name one in SAMPAN_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox"] if root else []
        )
        yield browser
        browser.close()
