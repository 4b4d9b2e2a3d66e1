"""No token comes from weights that were replaced: what held them is poisoned, and answers stay those of a
fresh engine."""

import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch

from sampan.core.errors import RequestError, SampanError
from sampan.core.types import Completion, SamplingParams
from sampan.envs.task import Problem
from sampan.llm.driver import Generation, News
from sampan.llm.load import graph_of
from sampan.llm.model import LLM
from sampan.train.batch import Group
from sampan.train.lora import TrainedAdapter
from sampan.train.rollout import roll_out
from sampan.train.student import Student, linears_of

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MARK = float(np.float32(0.0312345678))
"""Every number of the old B, by which it is found wherever it lies in memory."""
PAGES = 200
HOW = SamplingParams(temperature=1.0, max_tokens=16, seed=11, logprobs=0)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(adapters=1, adapter_rank=4, context=256, cache_tokens=PAGES * 32, threads=1) as model:
        yield model


@pytest.fixture
def student(llm: LLM) -> Iterator[Student]:
    with Student(llm, _marked(llm), rows=256) as learner:
        yield learner


@pytest.fixture(scope="module")
def prompts(llm: LLM) -> list[list[int]]:
    texts = ("Tell me about rivers. " * 12, "Count: one, two, one, two, one, two. " * 4, "Name a colour.")
    return [llm.encode(llm.prompt([{"role": "user", "content": text}]), templated=True) for text in texts]


def test_poisoned_old_weights_and_pages_give_no_token(
    llm: LLM, student: Student, prompts: list[list[int]]
) -> None:
    seen = prompts[:2]
    others = [llm.encode(text) for text in ("Rivers run to", "A colour is")]  # which share no page with any
    right = _of_a_fresh_engine(_marked(llm), others)
    old = _answers(student, seen)
    assert _answers(student, seen) == old
    _fill_cache(llm)
    assert _answers(student, seen, fails=True) != old, "the pages that answers are read from are garbage"
    assert _answers(student, others[:1]) == right[:1], "pages that are filled anew are not"
    group = Group(tuple(seen[1]), tuple(answer.tokens for answer in old[1]))
    judged = student.logprobs([group]).tolist()
    _overwrite(MARK, 50.0)
    assert all(torch.all(part.matrix_b == 50.0) for part in student.trained.parts), "the learner's own"
    assert student.logprobs([group]).tolist() != judged, "those that the trainer's program computes with"
    assert _answers(student, others[1:], fails=True) != right[1:], "those that answers come from"

    _learn(student)
    student.publish()
    found = _answers(student, prompts)
    assert found == _of_a_fresh_engine(student.trained, prompts)
    assert all(answer.adapter == found[0][0].adapter > old[0][0].adapter for own in found for answer in own)


def test_what_runs_during_an_update_ends_with_the_weights_it_began_with(
    llm: LLM, student: Student, prompts: list[list[int]]
) -> None:
    how = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    (before,) = llm.generate([prompts[0]], how, adapter=student.name)
    stream = llm.stream(prompts[0], how, adapter=student.name)
    first = next(stream)
    _learn(student)
    update = threading.Thread(target=student.publish)
    update.start()
    tokens = [first, *stream]
    update.join(60)
    assert stream.completion == before
    assert stream.completion.adapter == before.adapter
    assert len(tokens) == 40
    (after,) = llm.generate([prompts[0]], how, adapter=student.name)
    assert after.adapter > before.adapter
    assert after.cached_tokens == 0
    assert [[after]] == _of_a_fresh_engine(student.trained, [prompts[0]], how, n=1)


def test_a_request_for_weights_that_are_gone_is_refused(
    llm: LLM, student: Student, prompts: list[list[int]]
) -> None:
    request = llm.request(prompts[0], HOW, adapter=student.name)
    student.publish()
    box: SimpleQueue[News] = SimpleQueue()
    llm.driver.submit(Generation([request], box.put))
    said = box.get(timeout=60)
    assert isinstance(said, RequestError)
    assert "is not loaded" in str(said)


def test_answers_of_another_version_are_refused(llm: LLM, student: Student) -> None:
    problems = [Problem("Name a river.", "any")]
    how = SamplingParams(max_tokens=2, seed=1, logprobs=0)
    (rollout,) = roll_out(student, problems, {}, how, 2)
    assert {answer.adapter for answer in rollout.answers} == {rollout.version} == {student.version}
    newer = llm.put_adapter("in training", _marked(llm))
    with pytest.raises(SampanError, match=f"version {newer} came, and {student.version} was asked for"):
        roll_out(student, problems, {}, how, 2)


def _answers(
    student: Student, prompts: Sequence[Sequence[int]], *, fails: bool = False
) -> list[list[Completion]]:
    try:
        return student.sample([list(prompt) for prompt in prompts], [HOW] * len(prompts), 3)
    except RequestError:  # numbers that are not finite
        if not fails:
            raise
        return []


def _of_a_fresh_engine(
    adapter: TrainedAdapter, prompts: Sequence[Sequence[int]], how: SamplingParams = HOW, n: int = 3
) -> list[list[Completion]]:
    """Where nothing is cached or drafted, and no other adapter ever was."""
    with LLM(
        adapters=1, adapter_rank=4, context=256, cache_tokens=2048, threads=1, prefix_cache=False,
        speculation=False,
    ) as other:  # fmt: skip
        other.put_adapter("fresh", adapter)
        return other.generate([list(prompt) for prompt in prompts], how, n=n, adapter="fresh")


def _marked(llm: LLM) -> TrainedAdapter:
    adapter = TrainedAdapter.begin(linears_of(graph_of(llm.config), MODULES), rank=4, alpha=4, seed=1)
    with torch.no_grad():
        for part in adapter.parts:
            part.matrix_b.fill_(MARK)
    return adapter


def _learn(student: Student) -> None:
    """New numbers in the place of the old."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for part in student.trained.parts:
            part.matrix_b.normal_(0, 0.02, generator=generator)


def _writable() -> list[tuple[int, int]]:
    """Where this process's own memory is: starts and ends."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, rights, _, _, inode, *name = line.split()
        if rights.startswith("rw") and inode == "0" and not "".join(name).startswith(("[v", "[stack")):
            start, end = (int(text, 16) for text in place.split("-"))
            found.append((start, end))
    return found


def _fill_cache(llm: LLM) -> None:
    """Garbage (784.0 in bf16) over every page of keys and values. The native program has their place before
    their size."""
    size = llm.engine.runner.executable.program.cache_bytes  # type: ignore[attr-defined]
    areas = _writable()
    places = set()
    with open("/proc/self/mem", "r+b", buffering=0) as memory:  # noqa: PTH123
        for start, end in areas:
            for words, _ in _words(memory.fileno(), start, end, np.uint64):
                pointers = words[np.flatnonzero(words[1:] == size)].tolist()
                places |= {p for p in pointers if any(first <= p <= last - size for first, last in areas)}
        assert len(places) == 1, "the cache has one place"
        os.pwrite(memory.fileno(), b"\x44" * size, places.pop())


def _overwrite(old: float, new: float) -> None:
    """Put `new` wherever this process's memory has the float32 `old`. Nothing of some size is allocated
    meanwhile: it might come to lie where `old` was a moment ago. Nor are the bits of `old` a number here: a
    Python int of these bits is memory too, and would be another one from then on."""
    less = np.array([old], np.float32).view(np.uint32) - np.uint32(1)
    values = np.array([new], np.float32).view(np.uint32)
    rest, mask = np.zeros(1 << 20, np.uint32), np.zeros(1 << 20, np.bool_)
    for start, end in _writable():
        for at in range(start, end, 4 * mask.size):
            piece = ctypes.c_char * min(end - at, 4 * mask.size)
            words = np.frombuffer(piece.from_address(at), np.uint32)
            found = mask[: words.size]
            np.equal(np.subtract(words, less, out=rest[: words.size]), 1, out=found)
            np.putmask(words, found, values)


def _words(memory: int, start: int, end: int, kind: type) -> Iterator[tuple[Any, int]]:
    """This process's memory in pieces, and where each begins."""
    buffer = bytearray(1 << 22)
    for at in range(start, end, len(buffer)):
        try:
            size = os.preadv(memory, [memoryview(buffer)[: min(len(buffer), end - at)]], at)
        except OSError:
            continue  # unmapped meanwhile
        yield np.frombuffer(buffer, kind, size // np.dtype(kind).itemsize), at
