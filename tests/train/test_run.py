"""A run: exact before every update, the same bits again, and the same bits after a kill."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from sampan.cli.main import main
from sampan.core.types import ModelFiles

RECIPE = """
from sampan.envs.gym import GymTask
from sampan.train.grpo import Grpo
from sampan.train.loss import Loss
from sampan.train.recipe import Measure, Recipe


def long(problem, answer):
    return answer.completion_tokens + answer.text.count("e")


def recipe():
    task = GymTask("chain_sum", min_terms=3, max_terms=3)
    sizes = {"steps": 4, "problems": 2, "samples": 4, "max_tokens": 12}
    grpo = Grpo(task=task, rewards={"long": (1.0, long)}, rate=1e-3, **sizes)
    return Recipe(stages=(grpo,), tests={"long": Measure(task, long, 4, 12)}, keep_every=1)
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


def test_a_killed_run_goes_on_to_the_same_bits(recipe: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _run("train", "grpo", recipe, "--out", whole)
    command = [sys.executable, "-m", "sampan", "train", "grpo", str(recipe), "--out", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while len(_steps(killed)) < 2:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "adapter").exists()
    _run("train", "grpo", recipe, "--out", killed, "--resume")
    one, other = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (whole, killed))
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    assert any(one[name].any() for name in one if "lora_B" in name)
    assert [row["reward"] for row in _steps(whole)] == [row["reward"] for row in _steps(killed)]
    assert [row["gap"] for row in _steps(whole)] == [0.0] * 4
    versions = [row["sample"]["version"] for row in _steps(whole)]
    assert versions == sorted(set(versions)), "every step samples from new weights"


def test_a_folder_with_a_run_is_not_written_over(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.jsonl").write_text("{}\n")
    assert main(["train", "grpo", str(recipe), "--out", str(tmp_path)]) == 2
    assert "go on with --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"steps": 4', '"step": 4', "unexpected keyword argument 'step'"),
        ("(1.0, long)", "(0.0, long)", "every weight is 0"),
        ("def recipe()", "def other()", "has no function recipe()"),
        ("rate=1e-3", "temperature=0", "temperature is 0: it must lie above 0"),
        ("rate=1e-3", "loss=Loss(bound='clip')", 'loss.bound="clip" does nothing with updates=1'),
        ("rate=1e-3", "rate=0", "rate is 0: give a positive number"),
        ("rate=1e-3", "decay='step'", "decay is 'step': one of none, linear, cosine"),
        ('"samples": 4', '"samples": 1', "samples is 1: a group"),
        ("long, 4, 12", "long, 1, 12", "problems is 1: give 2 or more"),
        ("stages=(grpo,)", "stages=()", "stages is empty"),
    ],
)
def test_a_wrong_recipe_names_the_field(
    recipe: Path, before: str, after: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert before in RECIPE
    recipe.write_text(RECIPE.replace(before, after))
    assert main(["train", "grpo", str(recipe), "--out", str(recipe.parent / "out")]) == 2
    assert said in capsys.readouterr().err


def _run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def _steps(folder: Path) -> list[dict[str, object]]:
    log = folder / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [row for row in map(json.loads, lines) if "number" in row]


def test_a_run_whose_data_changed_is_another_one(
    tiny: Callable[..., ModelFiles], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, recipe, run = tmp_path / "data.jsonl", tmp_path / "recipe.py", tmp_path / "run"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    recipe.write_text(
        "from pathlib import Path\n"
        "from sampan.train.data import JsonLines\n"
        "from sampan.train.recipe import Recipe\n"
        "from sampan.train.sft import Sft\n"
        "def recipe():\n"
        f"    stage = Sft(data=JsonLines(Path({str(data)!r})), steps=1, examples=1)\n"
        f"    return Recipe(stages=(stage,), model={str(tiny('qwen2').path)!r})\n"
    )
    words = ("train", "sft", recipe, "--out", run)
    _run(*words)
    _run(*words, "--resume")
    data.write_text('{"prompt": "a", "completion": "c"}\n')
    assert main([*map(str, words), "--resume"]) == 2
    assert "holds another run: take another folder, or its recipe, seed and data" in capsys.readouterr().err
