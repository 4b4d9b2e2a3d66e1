"""The first load measures, the next ones read; whatever is chosen, answers are the same to the bit."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sampan import LLM, SamplingParams
from sampan.core.settings import Settings, available_cores
from sampan.core.types import Completion, ModelFiles
from sampan.kernels.cpu import _native, trial
from sampan.kernels.cpu.machine import machine
from sampan.kernels.cpu.tuning import BLOCKS, CHUNKS, DIRECT, Tuning, read, write
from sampan.llm.load import graph_of

SAMPLINGS = [
    SamplingParams(max_tokens=24, temperature=0, logprobs=2),
    SamplingParams(max_tokens=24, temperature=0, logprobs=2),
    SamplingParams(max_tokens=24, temperature=0.8, top_p=0.9, seed=3, logprobs=2),
]
TUNINGS = [
    Tuning(threads=1, direct_rows=1, row_block=64, chunk_rows=128, draft_rows=0),
    Tuning(threads=2, direct_rows=16, row_block=512, chunk_rows=256, draft_rows=16),
    Tuning(threads=2, huge_pages=False, direct_rows=4, row_block=128, chunk_rows=512, draft_rows=6),
]


class Told:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.finished = 0

    def start(self, total: int | None, label: str) -> None:  # noqa: ARG002
        self.said.append(label)

    def advance(self, n: int) -> None:
        raise AssertionError(f"{n} bytes of what?")

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture(autouse=True)
def huge_pages_again() -> Iterator[None]:
    yield
    _native.use_huge_pages(True)


def tuned(home: Path, threads: int | None = None) -> Settings:
    return replace(Settings.from_env(), home=home, tune=True, threads=threads)


def load(model: ModelFiles, settings: Settings, **options: Any) -> LLM:
    options = {"context": 1024, "max_sequences": 4} | options
    return LLM(model, settings=settings, **options)


def answers(llm: LLM) -> list[Completion]:
    """Of a long prompt with chunks and repetitions, and of short ones beside each other."""
    prompts = [[n * 31 % 997 for n in range(600)], [9, 8, 7] * 20, [5]]
    return llm.generate(prompts, SAMPLINGS)


def files(home: Path) -> list[Path]:
    return sorted((home / "tuning").glob("*"))


def test_the_first_load_measures_and_the_next_ones_read(default_model: ModelFiles, tmp_path: Path) -> None:
    told = Told()
    with load(default_model, tuned(tmp_path), progress=told) as llm:
        chosen = llm.tuning
    assert told.said == ["measuring this machine for smollm2-135m (once)"]
    assert told.finished == 1
    (file,) = files(tmp_path)
    row = json.loads(file.read_text())
    assert row["tuning"] == asdict(chosen)
    assert row["name"] == "smollm2-135m"
    assert chosen.threads in (available_cores(), available_cores() // 2)
    assert chosen.direct_rows in (1, *DIRECT)
    assert chosen.row_block in BLOCKS
    assert chosen.chunk_rows in CHUNKS
    assert chosen.draft_rows in (0, *DIRECT)

    other = replace(chosen, direct_rows=2, row_block=64, chunk_rows=256, draft_rows=6)
    write(tmp_path, row["subject"], "smollm2-135m", other)
    written = file.stat().st_mtime_ns
    with load(default_model, tuned(tmp_path), progress=told) as llm:
        assert llm.tuning == other
        assert llm.engine.scheduler.max_rows == 256
        assert llm.engine.scheduler.drafting.rows == 6
    with load(default_model, tuned(tmp_path), speculation=False, max_sequences=300) as llm:
        assert llm.engine.scheduler.max_rows == 300
        assert llm.engine.scheduler.drafting.rows == 0
    assert len(told.said) == 1
    assert file.stat().st_mtime_ns == written


def test_answers_do_not_depend_on_what_was_chosen(default_model: ModelFiles, tmp_path: Path) -> None:
    with load(default_model, Settings.from_env(), threads=1) as llm:
        expected = answers(llm)
        assert llm.tuning == Tuning(threads=1)
    with load(default_model, tuned(tmp_path), threads=1) as llm:
        assert answers(llm) == expected
    (file,) = files(tmp_path)
    subject = json.loads(file.read_text())["subject"]
    for chosen in TUNINGS:
        write(tmp_path, subject | {"threads": chosen.threads}, "x", chosen)
        with load(default_model, tuned(tmp_path, chosen.threads)) as llm:
            assert llm.tuning == chosen
            assert answers(llm) == expected


def test_a_thread_count_that_was_asked_for_is_kept(default_model: ModelFiles, tmp_path: Path) -> None:
    for settings, asked in ((tuned(tmp_path), 1), (tuned(tmp_path, threads=1), None)):
        with load(default_model, settings, threads=asked) as llm:
            assert llm.tuning.threads == llm.engine.runner.executable.machine.threads == 1
    (file,) = files(tmp_path)
    row = json.loads(file.read_text())
    assert (row["subject"]["threads"], row["tuning"]["threads"]) == (1, 1)


def test_fewer_threads_that_were_chosen_are_used(default_model: ModelFiles, tmp_path: Path) -> None:
    weights = load(default_model, Settings.from_env(), threads=1)
    two, one = machine(Settings(tmp_path), 2), machine(Settings(tmp_path), 1)
    before = weights.generate([5], SAMPLINGS[0])
    chosen = trial.tune(
        lambda count: graph_of(replace(weights.config, layers=count)), weights.config.layers, weights.weights,
        [two, one], "int8", weights.plan.weights_bytes,
    )  # fmt: skip
    assert chosen.threads in (1, 2)
    assert weights.generate([5], SAMPLINGS[0]) == before
    weights.close()


def test_switched_off_it_reads_and_writes_nothing(default_model: ModelFiles, tmp_path: Path) -> None:
    off = Settings.from_env({"SAMPAN_HOME": str(tmp_path), "SAMPAN_TUNE": "0"})
    told = Told()
    with load(default_model, off, progress=told) as llm:
        assert llm.tuning == Tuning(threads=available_cores())
    assert (told.said, files(tmp_path)) == ([], [])
    assert Settings.from_env({}).tune
    assert Settings.from_env({"SAMPAN_TUNE": ""}).tune


def test_a_home_that_cannot_be_written_is_no_error(default_model: ModelFiles, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("not a folder")
    with load(default_model, tuned(home)) as llm:
        assert llm.generate([5], SAMPLINGS[0]).completion_tokens > 0


def test_a_cache_too_small_to_measure_with_leaves_the_defaults(
    default_model: ModelFiles, tmp_path: Path
) -> None:
    told = Told()
    with load(default_model, tuned(tmp_path), context=64, max_sequences=1, progress=told) as llm:
        assert llm.plan.pages < trial.PAGES
        assert llm.tuning == Tuning(threads=available_cores())
    assert (told.said, files(tmp_path)) == ([], [])


SCRIPT = """
import sys
import sampan.llm, tokenizers
from sampan import LLM, SamplingParams

def resident(name):
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines[name].split()[0]) * 1024

before = resident("VmRSS")
with LLM(sys.argv[1], memory=int(sys.argv[2]), context=640, max_sequences=4) as llm:
    print(resident("VmHWM") - before, llm.plan.weights_bytes)
"""
TEXT = 36_000_000  # the tokenizer, and what building it leaves behind


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_measuring_stays_under_the_budget(default_model: ModelFiles, tmp_path: Path) -> None:
    memory = 165_000_000
    command = [sys.executable, "-c", SCRIPT, str(default_model.path), str(memory)]
    env = os.environ | {"SAMPAN_HOME": str(tmp_path), "SAMPAN_TUNE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    measured, weights = map(int, done.stdout.split())
    assert weights < measured < memory + TEXT
    (file,) = files(tmp_path)
    subject = json.loads(file.read_text())["subject"]
    assert read(tmp_path, subject, available_cores()) is not None
