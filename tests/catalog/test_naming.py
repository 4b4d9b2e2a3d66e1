"""What clients call a model that was given by its path."""

from pathlib import Path

import pytest

from sampan.catalog.naming import served_name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("hf:Qwen/Qwen3-0.6B", "hf:Qwen/Qwen3-0.6B"),
        ("/models/Qwen2.5-0.5B.Q4_K_M.gguf", "Qwen2.5-0.5B.Q4_K_M"),
        ("/models/big-00001-of-00003.gguf", "big"),
        ("./models/Qwen2.5-0.5B/", "Qwen2.5-0.5B"),
        ("~/hub/models--Qwen--Qwen3-0.6B/snapshots/0a1b/", "Qwen/Qwen3-0.6B"),
        ("/hub/models--a--b--c/snapshots/0a1b/x.gguf", "a/b--c"),
    ],
)
def test_a_path_is_called_by_its_last_part(model: str, name: str) -> None:
    assert served_name(model) == name


def test_here_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert served_name(".") == tmp_path.name
