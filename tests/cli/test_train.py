"""`sampan train` at a terminal: a live view, and Ctrl-C that loses nothing."""

import json
import signal
import time
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest
from rich.console import Console

from sampan.cli.train_view import View, curve, shown

RECIPE = """
from sampan.envs.task import Problem
from sampan.train.grpo import Grpo
from sampan.train.recipe import Lora, Measure, Recipe


class Sums:
    name = "sums"

    def problems(self, split, seed, count):
        first = 0 if split == "train" else 500
        return [Problem(f"What is {first + i} + {i}?", str(first + 2 * i)) for i in range(count)]

    def check(self, problem, answer):
        return float(answer == problem.answer)


def long(problem, answer):
    return answer.completion_tokens + answer.text.count("e")


def recipe():
    task = Sums()
    grpo = Grpo(task=task, rewards={"long": (1.0, long)}, steps=STEPS, problems=2, samples=4, max_tokens=12)
    test = Measure(task, long, 4, 12)
    return Recipe(stages=(grpo,), tests={"long": test}, lora=Lora(rank=2), keep_every=1000)
"""
STEP = {
    "stage": 1, "kind": "grpo", "number": 4, "reward": 0.25, "parts": {"right": 0.25}, "length": 20.5,
    "cut": 0.125, "still": 0.5, "gap": 0.0, "gradient": 0.31, "rate": 1e-4, "tokens": 600, "entropy": 0.7,
    "seconds": {"rollout": 3.0, "gradients": 2.0}, "excluded": [],
    "sample": {"question": "What is\n1 + 2?", "answers": ["3 \x1b[31m", "[bold]4"], "rewards": [1.0, 0.0]},
}  # fmt: skip
TEST = {"stage": 1, "step": 0, "test": "sums", "accuracy": 0.125, "error": 0.02, "problems": 400}


def test_the_view_has_what_users_watch() -> None:
    view = View([("sft", 10), ("grpo", 20)])
    view.add(TEST)
    for number in range(5):
        view.add(STEP | {"number": number, "reward": number / 4})
    view.add(TEST | {"step": 5, "accuracy": 0.5})
    text = _rendered(view)
    for words in (
        "stage 2 of 2: grpo", "step 5 of 20", "1:15 left", "reward 1.000", "length 20.5", "cut 0.125",
        "gap 0.0", "tokens/s 200", "entropy 0.7", "rollout 60%", "gradients 40%", "sums 12.5% → 50.0%",
        "What is 1 + 2?", "3 \ufffd[31m", "[bold]4",
    ):  # fmt: skip
        assert words in text, words
    assert "\x1b" not in text


def test_the_view_of_a_stage_without_rewards_shows_its_loss() -> None:
    view = View([("sft", 10), ("grpo", 20)])
    view.add(
        {"stage": 0, "kind": "sft", "number": 0, "loss": 1.5, "tokens": 80, "seconds": {"gradients": 2.0}}
    )
    text = _rendered(view)
    assert "loss 1.500" in text
    assert "0:18 left of this stage" in text
    assert "tokens/s 40" in text


def test_a_view_of_nothing_yet_is_no_error() -> None:
    assert "step 0 of 10" in _rendered(View([("sft", 10)]))


def test_a_curve_rises_where_its_values_do() -> None:
    lines, low, high = curve([0.0, 0.5, 1.0], 10, 2)
    assert (low, high) == (0.0, 1.0)
    assert [line.strip() for line in lines] == ["█", "▁██"]
    lines, low, high = curve([float(i) for i in range(100)], 10, 1)
    assert len(lines[0]) == 10
    assert list(lines[0]) == sorted(lines[0])
    assert curve([-2.0, -2.0], 10, 1)[1:] == (-2.0, -2.0)


def test_without_a_terminal_there_is_a_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with shown([("grpo", 20)], plain=False) as tell:
        tell(STEP)
        tell(TEST)
    out, err = capsys.readouterr()
    assert err == "stage 1 grpo step    5  reward 0.250  gradient 0.310  tokens 600  length 20.5  5.0 s\n"
    assert out == "stage 1 step    0  sums 12.5% ± 2.0% of 400 new problems\n"


@pytest.mark.parametrize("plain", [False, True])
def test_ctrl_c_keeps_the_step_and_says_how_to_go_on(
    sampan: Any, terminal: Callable[[], Any], tmp_path: Path, plain: bool
) -> None:
    recipe, run = tmp_path / "recipe.py", tmp_path / "run"
    recipe.write_text(RECIPE.replace("STEPS", "1000"))
    screen = terminal()
    words = ["train", "grpo", str(recipe), "--out", str(run), *(["--plain"] if plain else [])]
    process = sampan.start(*words, stdin=screen.inside, stdout=screen.inside, stderr=screen.inside)
    screen.read_until("step    2" if plain else "step 2 of 1000", 200)
    process.send_signal(signal.SIGINT)
    screen.read_until("stops behind this step, which is kept", 100)
    assert process.wait(100) == 130
    seen = screen.rest()
    again = f"sampan train grpo {recipe} --out {run} --resume"
    assert again in " ".join(seen.split())
    assert ("\x1b[" in seen) != plain
    assert "Traceback" not in seen
    steps = _numbers(run)
    assert steps == list(range(len(steps)))
    # The recipe's text is what a checkpoint belongs to, so the same one goes on, and is stopped again.
    process = sampan.start(*words, "--resume", **dict.fromkeys(("stdin", "stdout", "stderr"), DEVNULL))
    while len(_numbers(run)) <= len(steps):
        assert process.poll() is None
        time.sleep(0.01)
    assert _numbers(run)[: len(steps) + 1] == [*steps, len(steps)]


def _rendered(view: View) -> str:
    console = Console(file=StringIO(), width=120, force_terminal=False)
    console.print(view)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def _numbers(run: Path) -> list[int]:
    data = (run / "log.jsonl").read_bytes().split(b"\n")[:-1]
    rows: list[Mapping[str, Any]] = [json.loads(line) for line in data]
    return [row["number"] for row in rows if "number" in row]
