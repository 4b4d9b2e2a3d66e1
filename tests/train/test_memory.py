"""What training takes is told before it starts, and does not grow."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.core.types import ModelFiles

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def report(script: str, *words: object) -> Any:
    command = [sys.executable, BENCHMARKS / script, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(("kind", "rows"), [("lora", 384), ("bf16", 128)])
def test_the_process_takes_what_was_told(kind: str, rows: int) -> None:
    """The real default model."""
    found = report("train_memory.py", kind, "--rows", rows, "--threads", 1)
    assert found["measured"] <= found["estimate"] <= 1.5 * found["measured"], found


@pytest.mark.parametrize("how", [(), ("--full", "f32")])
def test_memory_is_flat_over_many_steps(tiny: Callable[..., ModelFiles], how: tuple[str, ...]) -> None:
    found = report("soak_train.py", "--model", tiny("qwen2").path, "--steps", 30, "--threads", 1, *how)
    assert found["steps"] == 30
    assert found["gap"] == 0.0
