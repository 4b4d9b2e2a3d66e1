"""Processes that read texts: one that takes too long or too much is ended, and the next job has another."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, json, sys, time
from types import SimpleNamespace
from sampan.server.ask import Caller
from sampan.server.errors import ApiError
from sampan.server.process import text_process
from sampan.server.process.text_workers import TextWorkers

class Jobs:
    def __init__(self, text): self.text = text
    def say(self, word): return word, self.text
    def spin(self):
        while True: pass
    def eat(self):
        hoard = []
        while True: hoard.append(bytes(1 << 24))
    def stop(self): time.sleep(1000)
    def deep(self):
        return self.deep()
    def fail(self): return 1 // 0

text_process.TextJobs, text_process.CPU_SECONDS = Jobs, 1
door = text_process.fork("the text")
LONG = 1 << 20

async def said(workers, job, *arguments, size=0, caller=Caller()):
    try:
        return await workers.run(caller, size, job, *arguments)
    except (ApiError, RuntimeError) as error:
        return [getattr(error, "code", None), type(error).__name__, str(error)[:4000]]

async def run():
    workers = TextWorkers(SimpleNamespace(max_queue=8, engine=None, model="m"), door)
    found = {}
    for job in ("spin", "eat", "deep", "fail"):
        found[job] = await said(workers, job)
        found[f"after {job}"] = await said(workers, "say", job)
    slow = asyncio.create_task(said(workers, "stop", size=LONG))
    behind = asyncio.create_task(said(workers, "say", "behind", size=LONG, caller=Caller(key="other")))
    await asyncio.sleep(0.3)
    found["beside"] = await said(workers, "say", "beside")
    assert not behind.done()
    slow.cancel()
    started = time.monotonic()
    found["behind"] = await behind
    found["seconds"] = time.monotonic() - started
    found["pid"] = [lane._worker._pid for lane in (workers._short, workers._long)]
    workers.close()
    return found

print(json.dumps(asyncio.run(run())))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    """What came of each job, in a program of its own: it forks."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("job", ["spin", "eat"])
def test_a_job_beyond_its_limits_is_ended(found: dict[str, list[str]], job: str) -> None:
    assert found[job][0] == "text_too_costly"
    assert "processor time" in found[job][2]


@pytest.mark.parametrize("job", ["spin", "eat", "deep", "fail"])
def test_the_next_job_is_done(found: dict[str, list[str]], job: str) -> None:
    assert found[f"after {job}"] == [job, "the text"]


def test_what_is_nested_too_deeply_is_an_error(found: dict[str, list[str]]) -> None:
    assert found["deep"][1:] == ["ApiError", "it is nested too deeply"]


def test_a_fault_of_a_job_says_where_it_was(found: dict[str, list[str]]) -> None:
    assert found["fail"][1] == "RuntimeError"
    assert "ZeroDivisionError" in found["fail"][2]


def test_what_is_short_does_not_wait_behind_what_is_long(found: dict[str, object]) -> None:
    assert found["beside"] == ["beside", "the text"]


def test_a_client_that_leaves_ends_its_job(found: dict[str, object]) -> None:
    assert found["behind"] == ["behind", "the text"]
    assert found["seconds"] < 5  # type: ignore[operator]
