"""Which modules of a PEFT folder are used, with which ranks and scales, and what is passed over and told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.core.errors import UnsupportedModel
from sampan.kernels.ops import Weight
from sampan.weights import lora_config
from sampan.weights.lora import Lora, read_lora

SIZES = {"q_proj": (64, 32), "k_proj": (32, 32), "v_proj": (32, 32), "o_proj": (32, 64)}
MLP = {"gate_proj": (96, 32), "up_proj": (96, 32), "down_proj": (32, 96)}
LAYER = {f"self_attn.{n}": s for n, s in SIZES.items()} | {f"mlp.{n}": s for n, s in MLP.items()}
SHAPES = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in LAYER.items()}
WEIGHTS = {name: Weight(name, shape) for name, shape in SHAPES.items()}
Write = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, write_adapter: Write) -> Path:
    write_adapter(tmp_path, SHAPES)
    return tmp_path


def edit(folder: Path, **fields: Any) -> None:
    """Other fields of the configuration."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def by_name(adapter: Lora) -> dict[str, tuple[int, float]]:
    return {part.weight.name: (part.rank, part.scale) for part in adapter.parts}


def test_what_peft_passes_over_is_passed_over_and_told(tmp_path: Path, write_adapter: Write) -> None:
    """Modules and targets that the model lacks, and tensors of modules that the configuration leaves out."""
    shapes = SHAPES | {"model.layers.7.self_attn.q_proj.weight": (64, 32), "vision.q_proj.weight": (8, 8)}
    excluded = ["layers.1.mlp.down_proj"]
    write_adapter(tmp_path, shapes, exclude_modules=excluded)
    edit(tmp_path, target_modules=[*LAYER, "q_proj", "nowhere"])
    adapter = read_lora(tmp_path, WEIGHTS)
    assert by_name(adapter).keys() == SHAPES.keys() - {"model.layers.1.mlp.down_proj.weight"}
    assert adapter.passed == (
        "tensors of modules that its configuration does not name: 'model.layers.1.mlp.down_proj'",
        "modules that this model lacks: 'model.layers.7.self_attn.q_proj', 'vision.q_proj'",
        "targets without tensors: 'nowhere'",
    )


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"target_modules": "all-linear"}, 14),
        ({"target_modules": r"model\.layers\.(?:0|1)\..*\b(?:[qkv]_proj)"}, 6),
        ({"target_modules": r".*_proj", "exclude_modules": r".*layers\.1\..*"}, 7),
        ({"exclude_modules": ["mlp.up_proj", "model.layers.0.mlp.gate_proj"]}, 11),
    ],
)
def test_expressions_choose_modules(folder: Path, fields: dict[str, Any], kept: int) -> None:
    edit(folder, **fields)
    assert len(read_lora(folder, WEIGHTS).parts) == kept


def test_expressions_give_ranks_and_scales(tmp_path: Path, write_adapter: Write) -> None:
    """As PEFT's `get_pattern_key` matches: a name or its end, the first expression that does."""
    write_adapter(tmp_path, SHAPES, ranks={"k_proj": 2, "v_proj": 2})
    alphas = {r"layers\.\d+\.self_attn\.(q|k)_proj": 4, r"^model\.layers\.[1-9]\..*": 16, ".*v_proj": 99}
    edit(tmp_path, rank_pattern={"[kv]_proj": 2}, alpha_pattern=alphas)
    found = by_name(read_lora(tmp_path, WEIGHTS))
    assert found["model.layers.0.self_attn.q_proj.weight"] == (4, 1.0)
    assert found["model.layers.1.self_attn.k_proj.weight"] == (2, 2.0)
    assert found["model.layers.1.self_attn.v_proj.weight"] == (2, 8.0)
    assert found["model.layers.1.mlp.up_proj.weight"] == (4, 4.0)
    assert found["model.layers.0.self_attn.v_proj.weight"] == (2, 49.5)
    assert found["model.layers.0.mlp.up_proj.weight"] == (4, 2.0)


def test_an_expression_without_end_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested repetitions: the limit holds for all matching together."""
    monkeypatch.setattr(lora_config, "_SECONDS", 0.1)
    for name, value in (
        ("rank_pattern", {r"(?:(?:\w|\.|[a-z])*)*[!?]": 4}),
        ("exclude_modules", r"(?:(?:\w|\.|[a-z])*)*[!?]"),
    ):
        edit(folder, **({"rank_pattern": {}} | {name: value}))
        with pytest.raises(UnsupportedModel, match=f"{name} has an expression that takes too long"):
            read_lora(folder, WEIGHTS)
