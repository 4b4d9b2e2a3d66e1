"""A recipe that trains the weights themselves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sampan.cli.main import main
from sampan.llm.model import LLM

RECIPE = """
import os

from sampan.envs.gym import GymTask
from sampan.train.full import Full
from sampan.train.grpo import Grpo
from sampan.train.loss import Loss
from sampan.train.recipe import Lora, Measure, Recipe

calls = 0


def long(problem, answer):
    global calls
    calls += 1
    if calls > int(os.environ["CALLS"]):
        raise RuntimeError("the power is gone")
    return sum(answer.tokens) % 7


def recipe():
    task = GymTask("chain_sum", min_terms=3, max_terms=3)
    sizes = dict(steps=4, problems=2, samples=4, max_tokens=12, rate=1e-3)
    grpo = Grpo(task=task, rewards={"long": (1.0, long)}, **sizes)
    return Recipe(stages=(grpo,), model=MODEL, lora=None, full=Full(), keep_every=1, rows=1024)
"""


@pytest.fixture
def recipe(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE.replace("MODEL", repr(str(tiny("qwen2").path))))
    monkeypatch.setenv("CALLS", "1000")
    return path


def test_a_run_that_broke_goes_on_to_the_same_weights(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(recipe, whole)
    assert "training takes" in capsys.readouterr().err
    monkeypatch.setenv("CALLS", "20")
    assert main(["train", "grpo", str(recipe), "--out", str(broken)]) == 1
    assert "the power is gone" in capsys.readouterr().err
    assert [row["number"] for row in steps(broken)] == [0, 1]
    monkeypatch.setenv("CALLS", "1000")
    run(recipe, broken, "--resume")
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (whole, broken))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [row["gradient"] for row in steps(whole)] == [row["gradient"] for row in steps(broken)]
    assert [row["reward"] for row in steps(whole)] == [row["reward"] for row in steps(broken)]
    assert [row["gap"] for row in steps(whole)] == [0.0] * 4
    versions = [row["sample"]["version"] for row in steps(whole)]
    assert versions == sorted(set(versions)), "every step samples from new weights"
    card = (whole / "model" / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "A model made of" in card
    with LLM(whole / "model", threads=1) as model:
        assert model.generate("x").completion_tokens > 0


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("lora=None, ", "", "lora and full: give one of them"),
        (", full=Full()", "", "lora and full: give one of them"),
        ("Full()", "Full(dtype='f16')", "full.dtype is 'f16': give 'f32' or 'bf16'"),
        ("Full()", "Full(modules=('x_proj',))", "full.modules: the model has no x_proj"),
        ("rate=1e-3", "rate=1e-3, loss=Loss(kl=0.1)", "looks at the model as it was before"),
        ("rows=1024", "rows=1 << 24", "are free: rows="),
    ],
)
def test_a_recipe_that_cannot_be_obeyed_says_why(
    recipe: Path, before: str, after: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = recipe.read_text()
    assert before in text
    recipe.write_text(text.replace(before, after))
    assert main(["train", "grpo", str(recipe), "--out", str(recipe.parent / "out")]) != 0
    assert said in capsys.readouterr().err


def run(recipe: Path, out: Path, *rest: str) -> None:
    assert main(["train", "grpo", str(recipe), "--out", str(out), *rest]) == 0


def steps(folder: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row for row in rows if "number" in row]
