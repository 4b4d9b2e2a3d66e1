"""Runs of the real default model: what is kept of them, and what a kill costs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.evals.sample import RunFolder

pytestmark = pytest.mark.usefixtures("default_model")

_TASKS = "gym:products?max_digits=1&min_terms=2&max_terms=2,jsonl:{}"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"question": f"What is {a} + {b}?", "answer": str(a + b), "checker": "number"}
        for a in range(2, 5)
        for b in range(2, 5)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluated(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sampan", "eval", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, **more)


def asked(lines: Path, out: Path, *more: str, longest: int = 48) -> list[str]:
    tasks = ("--tasks", _TASKS.format(lines), "--limit", "9", "--max-tokens", str(longest))
    return [*tasks, "--out", str(out), "--json", *more]


def told(found: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def answers(out: Path) -> dict[Any, tuple[str, float | None]]:
    return {sample.place: (sample.text, sample.score) for sample in RunFolder(out).samples()}


def test_a_run_tells_each_task_and_keeps_each_answer(lines: Path, tmp_path: Path) -> None:
    rows = told(evaluated(*asked(lines, tmp_path / "run", "--fresh")))
    rows = [row for row in rows if row["metric"] == "accuracy"]
    assert [row["n"] for row in rows] == [9, 9]
    assert all(0 <= row["low"] <= row["score"] <= row["high"] <= 1 for row in rows)
    assert all(row["stderr"] >= 0 and row["tokens"] > 0 and row["seconds"] > 0 for row in rows)
    samples = RunFolder(tmp_path / "run").samples()
    assert len(samples) == 18
    assert all(sample.question and sample.tokens for sample in samples)
    assert all(sample.score is not None and 0 <= sample.score <= 1 for sample in samples)
    for place, row in enumerate(rows):
        own = [sample.score == 1.0 for sample in samples if sample.task == place]
        assert row["score"] == pytest.approx(sum(own) / len(own))


def test_a_run_that_was_killed_ends_as_one_that_was_not(lines: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    rows = told(evaluated(*asked(lines, whole, "--fresh")))
    command = [sys.executable, "-m", "sampan", "eval", *asked(lines, killed, "--fresh")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        path = killed / "samples.jsonl"
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    with path.open("ab") as file:
        file.write(b'{"task": 0, "pro')  # as a kill within a write leaves it
    before = {sample.place for sample in RunFolder(killed).samples()}
    again = told(evaluated(*asked(lines, killed, "--fresh", "--resume")))
    assert len(before) >= 3
    assert answers(killed) == answers(whole)
    assert [row["score"] for row in again] == [row["score"] for row in rows]


def test_an_interrupted_run_says_how_to_go_on(lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "sampan", "eval", *asked(lines, out, "--fresh")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heard
    ) as process:
        while not RunFolder(out).exists or not RunFolder(out).samples():
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert f"--resume --out {out}" in stderr
    shown = evaluated("show", str(out))
    assert shown.returncode == 0
    assert "has not come to its end" in shown.stderr
    told(evaluated(*asked(lines, out, "--fresh", "--resume")))
    assert len(answers(out)) == 18


def test_an_answer_that_was_computed_is_not_computed_again(lines: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "SAMPAN_HOME": str(tmp_path / "home")}
    model = _model_path()
    runs = [told(evaluated(model, *asked(lines, tmp_path / str(at)), env=environment)) for at in range(2)]
    assert {row["kept"] for row in runs[0]} == {0}
    assert {row["kept"] for row in runs[1]} == {9}
    assert answers(tmp_path / "0") == answers(tmp_path / "1")
    for name, value in (("--cache", "int8"), ("--context", "512")):
        other = told(evaluated(model, *asked(lines, tmp_path / value, name, value), env=environment))
        assert {row["kept"] for row in other} == {0}


def test_two_runs_are_compared_problem_by_problem(lines: Path, tmp_path: Path) -> None:
    told(evaluated(*asked(lines, tmp_path / "a")))
    told(evaluated(*asked(lines, tmp_path / "b", longest=1)))
    rows = told(evaluated("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"))
    first, second = (RunFolder(tmp_path / name).samples() for name in "ab")
    for place, row in enumerate(row for row in rows if row["metric"] == "accuracy"):
        right = [
            {sample.problem for sample in own if sample.task == place and sample.score == 1.0}
            for own in (first, second)
        ]
        assert row["difference"] == pytest.approx((len(right[1]) - len(right[0])) / 9)
        assert set(row["gained"]) == right[1] - right[0]
        assert set(row["lost"]) == right[0] - right[1]
        assert 0 < row["p"] <= 1
    shown = evaluated("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert shown.returncode == 0
    assert "95% from" in shown.stdout


def test_samples_by_seed_give_attempts(lines: Path, tmp_path: Path) -> None:
    more = ("--samples", "4", "--temperature", "1", "--attempts", "1,4")
    rows = told(evaluated(*asked(lines, tmp_path / "run", *more)))
    by_metric = {(row["task"], row["metric"]): row for row in rows}
    for task in {row["task"] for row in rows}:
        once, four = by_metric[task, "pass@1"], by_metric[task, "pass@4"]
        assert once["score"] == pytest.approx(by_metric[task, "accuracy"]["score"])
        assert four["score"] >= once["score"]
        assert once["answers"] == 36
    assert len({sample.seed for sample in RunFolder(tmp_path / "run").samples()}) == 72


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "gsm9k"], "gsm8k"),
        (["--tasks", ""], "--tasks"),
        (["--tasks", "hans", "--samples", "3", "--temperature", "0"], "temperature"),
        (["--tasks", "gym:chain_sum", "--likelihood"], "multiple choice"),
        (["--tasks", "hans", "--top-p", "0.5"], "--temperature"),
        (["--tasks", "hans", "--attempts", "2"], "--samples"),
        (["--tasks", "hans", "--price", "free"], "--price"),
        (["compare", "a"], "takes 2"),
        (["compare", "a", "b"], "no run"),
        (["smollm2-135m", "another", "--tasks", "hans"], "another"),
        (["--tasks", "hans", "--endpoint", "nonsense"], "endpoint"),
        (["--tasks", "hans", "--resume"], "--out"),
    ],
)
def test_what_is_not_obeyed_is_refused_by_name(words: list[str], said: str, tmp_path: Path) -> None:
    found = evaluated(*words, cwd=tmp_path)
    assert found.returncode == 2
    assert said in found.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_has_a_run_is_not_written_over(lines: Path, tmp_path: Path) -> None:
    told(evaluated(*asked(lines, tmp_path / "run")))
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    again = evaluated(*asked(lines, tmp_path / "run"))
    assert again.returncode == 2
    assert "--resume" in again.stderr
    other = evaluated(*asked(lines, tmp_path / "run", "--resume", longest=3))
    assert other.returncode == 2
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before


def _model_path() -> str:
    from sampan.catalog.catalog import resolve
    from sampan.core.settings import Settings

    return str(resolve("smollm2-135m", Settings.from_env()).path)


def _heard() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
