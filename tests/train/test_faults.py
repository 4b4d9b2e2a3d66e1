"""Whatever happens to a run, its last checkpoint is whole, and it goes on to the same bits."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from sampan.cli.main import main
from sampan.core.errors import OutOfMemory
from sampan.core.types import ModelFiles
from sampan.train.faults import short_of_memory
from sampan.train.log import Log

STEPS = 6
RECIPE = f"""
import os
import resource

from sampan.envs.task import Problem
from sampan.train.grpo import Grpo
from sampan.train.recipe import Lora, Measure, Recipe

calls = 0


class Sums:
    name = "sums"

    def problems(self, split, seed, count):
        first = 0 if split == "train" else 500
        return [Problem(f"What is {{first + i}} + {{i}}?", str(first + 2 * i)) for i in range(count)]

    def check(self, problem, answer):
        return float(answer == problem.answer)


def limit(kind, size):
    resource.setrlimit(kind, (size, resource.getrlimit(kind)[1]))


def happens(fault):
    if fault == "disk":
        limit(resource.RLIMIT_FSIZE, 1000)
    if fault == "memory":
        with open("/proc/self/statm") as file:
            limit(resource.RLIMIT_AS, int(file.read().split()[0]) * resource.getpagesize() + (2 << 20))


def long(problem, answer):
    global calls
    calls += 1
    fault = os.environ.get("FAULT", "")
    if calls == 30:  # 4 measured, and 8 a step: in the fourth step
        happens(fault)
        if fault == "nan":
            return float("nan")
    return answer.completion_tokens + answer.text.count("e")


def recipe():
    task = Sums()
    shared = {{"task": task, "problems": 2, "samples": 4, "max_tokens": 12}}
    grpo = Grpo(rewards={{"long": (1.0, long)}}, steps={STEPS}, rate=1e-3, **shared)
    test = Measure(task, long, 4, 12)
    return Recipe(stages=(grpo,), tests={{"long": test}}, model=MODEL, lora=Lora(rank=8), keep_every=2)
"""
FINAL = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def recipe(tiny: Callable[..., ModelFiles], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "recipe.py"
    path.write_text(RECIPE.replace("MODEL", repr(str(tiny("qwen2").path))))
    return path


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """A run to which nothing happened."""
    folder = recipe.parent / "whole"
    assert main(_words(recipe, folder)) == 0
    return folder


@pytest.fixture
def start(recipe: Path, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """The run in a process of its own, in `tmp_path / "run"`."""
    running = []

    def begin(*words: str, before: tuple[str, ...] = (), **env: str) -> "subprocess.Popen[str]":
        command = [*before, sys.executable, "-m", "sampan", *_words(recipe, tmp_path / "run"), *words]
        running.append(
            subprocess.Popen(
                command, env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        )
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def test_kills_at_any_moment_change_no_bit(
    recipe: Path, whole: Path, tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    run = tmp_path / "run"
    draw = random.Random(7)
    log, kept, beside = run / "log.jsonl", run / "checkpoint.safetensors", run / "checkpoint.part"

    def changed(path: Path) -> Callable[[], bool]:
        before = _time(path)
        return lambda: _time(path) != before

    def later(seconds: float) -> Callable[[], bool]:
        begun, at = changed(log), None

        def reached() -> bool:
            nonlocal at
            if at is None and begun():
                at = time.monotonic() + seconds
            return at is not None and time.monotonic() > at

        return reached

    def steps_grew() -> Callable[[], bool]:
        before = _steps(run)
        return lambda: _steps(run) > before

    moments = (
        steps_grew,  # the log knows a step that no checkpoint has
        lambda: beside.exists,  # a checkpoint is being written
        lambda: changed(kept),  # it is there, and nothing behind it
        lambda: later(draw.uniform(0, 1.5)),
    )
    killed = 0
    for place, moment in enumerate(moments):
        reached = moment()
        process = start(*(["--resume"] if place else []))
        while process.poll() is None and not reached():
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        if log.exists() and place % 2:
            log.write_bytes(log.read_bytes() + b'{"stage": 0, "kind": "gr')
    assert killed >= 3
    _goes_on(recipe, run, whole)


def test_a_disk_that_is_full_costs_nothing_but_time(
    recipe: Path, whole: Path, tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    said = _fails(start(FAULT="disk"))
    assert "cannot be written: File too large: make room; the last checkpoint is whole" in said
    assert _steps(tmp_path / "run") == 3
    _goes_on(recipe, tmp_path / "run", whole)


def test_a_file_system_that_is_full(
    recipe: Path, whole: Path, tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """A small one of its own, with room for one checkpoint and not for the next one beside it."""
    run, kept = tmp_path / "run", tmp_path / "kept"
    run.mkdir()
    unshare = ("unshare", "--mount", "--map-root-user")
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    size = (whole / "checkpoint.safetensors").stat().st_size * 4  # with moments three times as large
    script = f'mount -t tmpfs -o size={size} tmpfs {run} && ("$@"; code=$?; cp -r {run}/. {kept}; exit $code)'
    said = _fails(start(before=(*unshare, "sh", "-c", script, "sh")))
    assert "checkpoint.safetensors: cannot be written: " in said
    assert "No space left on device" in said
    assert not (kept / "checkpoint.part").exists()
    shutil.rmtree(run)
    kept.rename(run)
    _goes_on(recipe, run, whole)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_missing_memory_costs_nothing_but_time(
    recipe: Path, whole: Path, tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    # No piece of memory that was used before is given out again: each is asked of the system.
    said = _fails(start(FAULT="memory", MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536"))
    assert said.startswith("sampan: out of memory (")
    assert "the last checkpoint is whole, and --resume goes on from it" in said
    assert _steps(tmp_path / "run") == 3
    _goes_on(recipe, tmp_path / "run", whole)


def test_what_the_engine_says_of_missing_memory_says_what_is_left() -> None:
    with (
        pytest.raises(OutOfMemory, match=r"\(no memory for x\): the last checkpoint is whole"),
        short_of_memory(),
    ):
        raise OutOfMemory("no memory for x")


def test_a_reward_that_is_no_number_stops_the_run_and_is_named(
    recipe: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FAULT", "nan")
    assert main(_words(recipe, tmp_path / "run")) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("sampan: the reward 'long' is nan for ")
    assert "an answer to 'What is " in said
    monkeypatch.delenv("FAULT")
    _goes_on(recipe, tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[: len(data) // 2], "cannot be read"),
        (lambda data: data[:0], "cannot be read"),
        (lambda data: data[:-5] + bytes([data[-5] ^ 4]) + data[-4:], "is not what was written"),
        (lambda data: data.replace(b"[1, 0]", b"[0, 1]", 1), "is not what was written"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(
    recipe: Path,
    whole: Path,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    path = run / "checkpoint.safetensors"
    data = path.read_bytes()
    path.write_bytes(damage(data))
    assert path.read_bytes() != data
    log = (run / "log.jsonl").read_bytes()
    assert main([*_words(recipe, run), "--resume"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{path}: {said}" in error
    assert "begin anew in another folder" in error
    assert (run / "log.jsonl").read_bytes() == log


def _words(recipe: Path, run: Path) -> list[str]:
    return ["train", "grpo", str(recipe), "--out", str(run)]


def _fails(process: "subprocess.Popen[str]") -> str:
    """The one line that an error is."""
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    lines = [line for line in err.splitlines() if line.startswith("sampan:")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def _goes_on(recipe: Path, run: Path, whole: Path) -> None:
    """The run comes to its end, and to the bits of the one to which nothing happened."""
    assert main([*_words(recipe, run), "--resume"]) == 0
    assert (run / FINAL).read_bytes() == (whole / FINAL).read_bytes()
    assert any(values.any() for name, values in load_file(run / FINAL).items() if "lora_B" in name)
    assert _told(run) == _told(whole)


def _told(run: Path) -> list[dict[str, object]]:
    """What the log has of each step and measurement, but for times and the engine's own count of weights."""
    same = ("stage", "number", "step", "reward", "gradient", "gap", "accuracy", "samples")
    rows = Log(run).rows()
    answers = [{name: row.get("sample", {}).get(name) for name in ("answers", "rewards")} for row in rows]
    return [{name: row.get(name) for name in same} | own for row, own in zip(rows, answers, strict=True)]


def _steps(run: Path) -> int:
    return sum("number" in row for row in Log(run).rows())


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
