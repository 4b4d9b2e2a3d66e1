"""Fixtures that every folder shares: the real default model, and a cache of one's own."""

import os
from pathlib import Path

import pytest

from sampan.catalog.catalog import resolve
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles

# No test tells the hub, or waits to tell it, which programs run it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Nor does one depend on what this machine measures, unless it says so.
os.environ["SAMPAN_TUNE"] = "0"

_READ = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "SAMPAN_OFFLINE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")


@pytest.fixture(scope="session")
def default_model() -> ModelFiles:
    """SmolLM2-135M-Instruct (Q4_1), through the real catalogue and into the user's real cache."""
    return resolve("smollm2-135m", Settings.from_env())


@pytest.fixture
def sampan_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `SAMPAN_HOME`, with nothing of the user's own settings or caches in reach."""
    for name in _READ:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("SAMPAN_HOME", str(home))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    return home
