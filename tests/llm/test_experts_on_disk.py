"""`expert_memory` of a loaded model: answers, the file that experts are read from, and disks that fail."""

import gc
import os
import re
import resource
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan import LLM
from sampan.core.errors import OutOfMemory, SampanError, UnsupportedModel, UsageError
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, SamplingParams

GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
PROMPTS = [[7 * i % 1000 for i in range(60)], [5, 6, 7], [900]]
Load = Callable[..., LLM]


@pytest.fixture
def load(mixture: Path, tmp_path: Path) -> Iterator[Load]:
    """The mixture with some memory for its experts; its cache folder is the test's own."""
    opened: list[LLM] = []

    def make(expert_memory: Any, model: Path = mixture, **options: Any) -> LLM:
        options = {"context": 256, "cache_tokens": 1024, "threads": 2, **options}
        settings = Settings(tmp_path / "home", tune=False)
        opened.append(LLM(model, expert_memory=expert_memory, settings=settings, **options))
        return opened[-1]

    yield make
    for llm in opened:
        llm.close()


def tokens(llm: LLM) -> list[list[int]]:
    return [list(done.tokens) for done in llm.generate(PROMPTS, GREEDY)]


def least(load: Load) -> int:
    """As the refusal has it."""
    with pytest.raises(OutOfMemory) as refused:
        load("4kB")
    (number,) = re.findall(r"12 experts in 3 layers, (\d+) bytes", str(refused.value))
    return int(number)


def test_answers_are_those_of_a_model_in_memory(load: Load, tmp_path: Path) -> None:
    expected = tokens(load(None))
    assert not (tmp_path / "home" / "experts").exists()
    for memory in (least(load), "1MB", "1GB"):
        llm = load(memory)
        assert tokens(llm) == expected
        reads = llm.expert_reads
        assert reads is not None
        assert reads.slots * reads.bytes_each == llm.plan.expert_bytes <= llm.plan.weights_bytes
        assert reads.hit_rate is not None
        assert 0 < reads.hit_rate < 1
        assert reads.bytes_per_token == reads.bytes_read / reads.tokens
    assert load(None).expert_reads is None


def test_one_byte_less_than_the_least_is_refused(load: Load, tmp_path: Path) -> None:
    number = least(load)
    with pytest.raises(OutOfMemory, match=f"{number} bytes"):
        load(number - 1)
    assert not (tmp_path / "home").exists()
    assert load(number).plan.expert_bytes == number


def test_what_has_no_experts_or_keeps_them_is_refused(load: Load, default_model: ModelFiles) -> None:
    with pytest.raises(UsageError, match="expert_memory is given, and the model has no experts"):
        load("1MB", default_model.path)
    with pytest.raises(UnsupportedModel, match="backend torch keeps all experts in memory"):
        load("1MB", backend="torch", threads=None)
    with pytest.raises(UsageError, match="'4G' is no amount of memory"):
        load("4G")


def test_the_file_is_made_once_for_each_state_of_a_checkpoint(
    load: Load, mixture: Path, tmp_path: Path
) -> None:
    model, folder = tmp_path / "model.gguf", tmp_path / "home" / "experts"
    model.write_bytes(mixture.read_bytes())
    load("1MB", model).close()
    (made,) = folder.iterdir()
    before = made.stat().st_ino, made.stat().st_mtime_ns
    load("200kB", model).close()
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == before
    os.utime(model, ns=(0, 0))
    load("1MB", model).close()
    assert len(list(folder.iterdir())) == 2


def test_a_file_that_was_cut_off_is_made_again(load: Load, tmp_path: Path) -> None:
    expected = tokens(load("1MB"))
    (made,) = (tmp_path / "home" / "experts").iterdir()
    size = made.stat().st_size
    left = made.with_name(f"{made.name}.{2**22 + 1}.partial")  # no process has such a number
    left.write_bytes(b"half")
    os.truncate(made, size - 4096)
    assert tokens(load("1MB")) == expected
    assert made.stat().st_size == size
    assert [*made.parent.iterdir()] == [made]


def test_a_full_disk_is_named_and_nothing_is_left(load: Load, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(
            SampanError, match=r"no space left for .*mixture-[0-9a-f]{16}\.experts: make room"
        ):
            load("1MB")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "home" / "experts").iterdir())


def test_a_disk_that_fails_fails_the_requests_of_its_step_alone(load: Load, tmp_path: Path) -> None:
    expected = tokens(load(None))
    llm = load(least(load), max_sequences=1)
    (made,) = (tmp_path / "home" / "experts").iterdir()
    whole = made.read_bytes()
    first, second = (llm.engine.add(prompt, GREEDY) for prompt in PROMPTS[:2])
    os.truncate(made, 4096)
    (failed,) = llm.engine.step()
    assert (failed.request, failed.finish_reason) == (first, "error")
    said = rf"{re.escape(str(made))}: expert \d+ of .* could not be read at offset \d+: the file ends there"
    assert re.fullmatch(said, failed.error or "")
    with made.open("r+b") as file:
        file.write(whole)
    given = []
    while not llm.engine.idle:
        given += [(event.request, event.token.token) for event in llm.engine.step() if event.token]
    assert given == [(second, token) for token in expected[1]]
    assert llm.engine.pool.free == llm.engine.pool.count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_that_gives_the_model_back_ends(load: Load) -> None:
    llm = load("1MB")
    expected = tokens(llm)
    child = os.fork()
    if child == 0:
        store = weakref.ref(llm.weights.store)
        llm.close()
        gc.collect()
        os._exit(3 if store() is None else 1)  # its threads are not here, and nobody waits for them
    end = time.monotonic() + 20
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.01)
    if done[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(done[1]) == 3
    assert tokens(llm) == expected
