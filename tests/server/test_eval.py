"""`sampan eval --endpoint`, asking the service by both of its APIs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def evaluated(*words: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "sampan", "eval", *words, "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


@pytest.mark.parametrize("path", ["", "/v1/messages"])
def test_a_service_answers_as_the_model_does_here(service: Any, path: str, tmp_path: Path) -> None:
    tasks = ("--tasks", "gym:chain_sum?max_digits=1", "--limit", "12", "--max-tokens", "24")
    there = ("--endpoint", service.url + path, "--price", "1,2")
    own, *_ = evaluated("smollm2-135m", *tasks, "--fresh", "--out", str(tmp_path / "here"))
    far, *_ = evaluated(service.model, *tasks, *there, "--out", str(tmp_path / "there"))
    for name in ("n", "score", "low", "high", "tokens", "prompt_tokens"):
        assert far[name] == own[name]
    assert far["cost_usd"] == pytest.approx((far["prompt_tokens"] + 2 * far["tokens"]) / 1e6)
    compared, *_ = evaluated("compare", str(tmp_path / "here"), str(tmp_path / "there"))
    assert compared["difference"] == 0
    answers = [
        {row["problem"]: row["text"] for row in map(json.loads, text.splitlines())}
        for text in ((tmp_path / name / "samples.jsonl").read_text() for name in ("here", "there"))
    ]
    assert answers[0] == answers[1]
