"""Families in files of one's own: found, described and recorded; and what is wrong with one is said."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sampan.core.errors import UnsupportedModel, UsageError
from sampan.kernels.recorder import record
from sampan.models import registry
from sampan.weights.checkpoint import open_checkpoint

Set = Callable[..., None]
OURS = [
    "deepseek_v2", "deepseek_v3", "llama", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_5", "qwen3_moe",
    "qwen3_next",
]  # fmt: skip
SOUND = """
from __future__ import annotations
from dataclasses import dataclass
from sampan.models.llama import FAMILY as LLAMA
from sampan.models.family import Family

@dataclass
class Own:
    number: int

FAMILY = Family(name="own", from_hf=LLAMA.from_hf, build=LLAMA.build, forward=LLAMA.forward)
"""


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Set:
    """Writes family files and names them in SAMPAN_FAMILIES."""

    def write(*texts: str) -> None:
        paths = []
        for number, text in enumerate(texts):
            paths.append(tmp_path / f"own{number}.py")
            paths[-1].write_text(text)
        monkeypatch.setenv("SAMPAN_FAMILIES", os.pathsep.join(map(str, paths)))

    return write


def test_a_file_brings_a_family(use: Set) -> None:
    assert list(registry.families()) == OURS
    use(SOUND)
    assert list(registry.families()) == [*OURS, "own"]
    with pytest.raises(UnsupportedModel, match=r"model_type 'gpt' is not supported: .*qwen3_next, own"):
        registry.from_hf({"model_type": "gpt"})


def test_a_file_is_loaded_once(use: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    use(SOUND + f"\nwith open({str(log)!r}, 'a') as file:\n    file.write('x')\n")
    registry.families()
    path = tmp_path / "own0.py"
    monkeypatch.setenv("SAMPAN_FAMILIES", f"{path}{os.pathsep}{tmp_path / '.' / 'own0.py'}{os.pathsep}")
    assert registry.families()["own"] is registry.load_file(path).FAMILY
    assert log.read_text() == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"own0\.py has no FAMILY: give a sampan\.models\.family\.Family"),
        ("FAMILY = 5", r"own0\.py has a FAMILY of type int"),
        ("import nothing_of_this_name", r"own0\.py cannot be loaded: ModuleNotFoundError"),
        ("def", r"own0\.py cannot be loaded: SyntaxError"),
        ("raise SystemExit(3)", r"own0\.py cannot be loaded: SystemExit"),
        (SOUND.replace(", forward=LLAMA.forward", ""), r"own0\.py cannot be loaded: .*'forward'"),
        (
            SOUND.replace("LLAMA.forward", "None"),
            r"own0\.py cannot be loaded: .*forward is None, no function",
        ),
        (SOUND.replace("LLAMA.build", "LLAMA.built"), r"own0\.py cannot be loaded: .*'built'"),
        (SOUND.replace('"own"', '"llama"'), "two families are called 'llama': look at SAMPAN_FAMILIES"),
        (SOUND.replace('"own"', '"own", model_types=("qwen2",)'), "two families are called 'qwen2'"),
        (SOUND.replace('"own"', '"own", architectures=("qwen3",)'), "two families are called 'qwen3'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(use: Set, text: str, message: str) -> None:
    use(text)
    with pytest.raises(UsageError, match=message):
        registry.families()


@pytest.mark.parametrize("path", ["missing.py", "other.txt", "."])
def test_what_is_no_file_is_named(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.txt").write_text(SOUND)
    monkeypatch.setenv("SAMPAN_FAMILIES", str(tmp_path / path))
    with pytest.raises(UsageError, match=r"is no Python file: SAMPAN_FAMILIES names files"):
        registry.families()


def test_a_reader_must_give_its_own_familys_configuration(use: Set) -> None:
    reader = "lambda fields: 5"
    for text in (SOUND, SOUND.replace("LLAMA.from_hf", reader)):
        use(text)
        registry.load_file.cache_clear()
        registry._families.cache_clear()
        config = {
            "model_type": "own", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 96, "vocab_size": 9, "max_position_embeddings": 9, "rms_norm_eps": 1e-5,
        }  # fmt: skip
        with pytest.raises(UsageError, match="family own: from_hf gives no ModelConfig of this family"):
            registry.from_hf(config)


def test_the_third_family_says_sizes_rotation_and_gate(parallel: Callable[..., Any]) -> None:
    files, tensors, logits = parallel("BF16", seed=3)
    with open_checkpoint(files) as checkpoint:
        model = registry.describe(checkpoint.config)
        weights = model.weights()
    assert "model.layers.0.mlp.gate_up_proj.weight" in tensors
    assert {"model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"} < weights.keys()
    graph = record(model.forward)
    for layer, shape in enumerate(graph.attentions()):
        assert (shape.layer, shape.heads, shape.kv_heads) == (layer, 4, 2)
        assert (shape.key_size, shape.value_size, shape.scale) == (64, 32, 64**-0.5)
    (rope,) = graph.ropes()
    assert (rope.form, rope.first, rope.size, rope.head_size) == ("interleaved", 32, 32, 64)
    assert {"scale", "gate"} < {node.op for node in graph.nodes}
    assert graph.outputs.keys() == {"hidden", "logits"}
    assert logits(tensors, [1, 2, 3]).shape == (3, checkpoint.config.vocab)


@pytest.mark.parametrize("layers", [1, 2])
def test_fewer_layers_are_the_same_models_first(parallel: Callable[..., Any], layers: int) -> None:
    with open_checkpoint(parallel()[0]) as checkpoint:
        config = replace(checkpoint.config, layers=layers)
        assert registry.describe(config).weights().keys() <= checkpoint.tensors.keys()
    assert len(record(registry.describe(config).forward).attentions()) == layers
