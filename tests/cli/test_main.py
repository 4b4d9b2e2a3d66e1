"""The program around its commands: help, version, pipes that close, start-up."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sampan.core.settings import available_cores

HEAVY = {
    "torch",
    "transformers",
    "safetensors",
    "gguf",
    "fastapi",
    "uvicorn",
    "huggingface_hub",
    "prompt_toolkit",
}
UNUSED_BY_RUN = {"rich", "asyncio", "requests", "httpx"}


def test_version_and_help_name_what_there_is(sampan: Any) -> None:
    assert re.fullmatch(r"sampan \d+\.\d+\.\d+\n", sampan("--version").stdout)
    done = sampan("--help")
    assert done.returncode == 0
    for name in ("run", "chat", "score", "bench", "doctor", "models"):
        assert f"  {name} " in done.stdout
    assert "--temperature" in sampan("run", "-h").stdout


def test_models_is_wired_in(sampan: Any) -> None:
    rows = [json.loads(line) for line in sampan("models", "list", "--json").stdout.splitlines()]
    assert {"alias", "licence", "source", "local"} <= set(rows[0])
    assert {row["alias"]: row["local"] for row in rows}["smollm2-135m"] is True


@pytest.mark.parametrize("words", [("--debug", "run", "nomodel", "x"), ("run", "nomodel", "x", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(words: tuple[str, ...], sampan: Any) -> None:
    done = sampan(*words)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("sampan: no model is called 'nomodel'")


def test_a_closed_pipe_ends_quietly(sampan: Any) -> None:
    process = sampan.start("run", "Tell a story.", "--logit-bias", "2=-100")
    assert len(process.stdout.read(1)) == 1
    process.stdout.close()
    assert process.wait(60) != 0
    assert process.stderr.read() == ""


def test_head_reads_what_it_wants_from_buffered_output(sampan: Any) -> None:
    line = " ".join(sampan.line("models", "list", "--json"))
    shell = ["sh", "-c", f"{{ {line}; echo said $? >&2; }} | true; exit 0"]
    done = subprocess.run(shell, env=sampan.env, capture_output=True, text=True, timeout=60)
    assert done.stderr in ("said 1\n", "said 0\n")  # 0 when `true` ends after the output is in the pipe


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(sampan: Any) -> None:
    with Path("/dev/full").open("w") as full:
        process = sampan.start("models", "list", "--json", stdout=full.fileno())
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch(r"sampan: .*No space left on device.*\n", errors)


def _imported(env: dict[str, str], *words: str) -> set[str]:
    command = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    names = re.findall(r"^import time:[\s\d|]*\|\s*(\S+)$", done.stderr, re.MULTILINE)
    assert len(names) > 20
    return {name.partition(".")[0] for name in names}


def test_importing_and_running_load_nothing_heavy(sampan: Any) -> None:
    assert not _imported(sampan.env, "-c", "import sampan, sampan.llm") & (HEAVY | UNUSED_BY_RUN)
    run = ("-m", "sampan", "run", "Hi", "--max-tokens", "1")
    assert not _imported(sampan.env, *run) & (HEAVY | UNUSED_BY_RUN)


def test_too_many_threads_are_told_once(sampan: Any) -> None:
    cores = available_cores()
    done = sampan("run", "Hi", "--max-tokens", "2", "--threads", str(cores + 1))
    assert done.returncode == 0
    assert done.stderr == f"sampan: {cores + 1} threads on {cores} cores wait for each other: use {cores}\n"


def test_output_that_the_locale_cannot_write_is_no_crash(sampan: Any) -> None:
    words = (
        "run",
        "--raw",
        "\U0001f600 \U0001f600 \U0001f600 \U0001f600",
        "--temperature",
        "0",
        "--max-tokens",
        "8",
    )
    done = sampan(*words, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout


def test_sizes_of_the_terminal_do_not_matter(sampan: Any) -> None:
    assert sampan("run", "--help", COLUMNS="20").returncode == 0
    assert os.linesep in sampan("models", COLUMNS="20").stdout
