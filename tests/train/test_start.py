"""Training that goes on with an adapter's numbers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sampan.core.errors import UsageError
from sampan.core.types import ModelFiles
from sampan.llm.load import graph_of
from sampan.train.lora import TrainedAdapter
from sampan.train.recipe import ALL_LINEAR, Lora, Recipe
from sampan.train.run import run
from sampan.train.student import linears_of
from sampan.weights.checkpoint import open_checkpoint


@pytest.fixture(scope="session")
def begun(default_model: ModelFiles) -> Callable[..., tuple[TrainedAdapter, Any]]:
    with open_checkpoint(default_model) as file:
        config = file.config

    def begin(rank: int = 2, modules: tuple[str, ...] = ALL_LINEAR) -> tuple[TrainedAdapter, Any]:
        return TrainedAdapter.begin(linears_of(graph_of(config), modules), rank, 2.0 * rank, 5), config

    return begin


def test_an_exported_adapter_comes_back_to_the_bit(watched: Path, begun: Any) -> None:
    adapter, config = begun()
    adapter.start(watched / "adapter", config)
    kept = load_file(watched / "adapter" / "adapter_model.safetensors")
    assert kept
    for name, tensor in adapter.named.items():
        assert torch.equal(tensor, kept[f"base_model.model.{name}"])


def test_a_run_begins_where_another_ended(watched: Path, tmp_path: Path) -> None:
    whole: Recipe = run_path(str(watched.parent / "tiny.py"))["recipe"]()
    start = Lora(rank=2, alpha=4, start=watched / "adapter")
    stages = (replace(whole.stages[-1], steps=1),)
    rows: list[dict[str, Any]] = []
    recipe = replace(whole, stages=stages, lora=start, test_every=0)
    run(recipe, "a test", tmp_path, resume=False, threads=None, tell=lambda row: rows.append(dict(row)))
    before = [json.loads(line) for line in (watched / "log.jsonl").read_text().splitlines()]
    last = {row["test"]: row["accuracy"] for row in before if "test" in row}
    first = {row["test"]: row["accuracy"] for row in reversed(rows) if "test" in row and row["step"] == 0}
    assert first == last
    assert [row["gap"] for row in rows if "gap" in row] == [0.0]


def test_another_adapter_is_another_run(watched: Path, copied: Callable[[], Path]) -> None:
    changed = copied() / "adapter"
    with (changed / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    sources = [Lora(start=path).sources for path in (watched / "adapter", changed)]
    assert sources[0] != sources[1]


@pytest.mark.parametrize(
    ("how", "said"), [({"rank": 4}, "has rank 2"), ({"modules": ("q_proj", "v_proj")}, "other modules")]
)
def test_an_adapter_of_another_kind_is_refused(how: Any, said: str, watched: Path, begun: Any) -> None:
    adapter, config = begun(**how)
    with pytest.raises(UsageError, match=said):
        adapter.start(watched / "adapter", config)


def test_an_adapter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lora\.start"):
        Lora(start=tmp_path / "nothing")
