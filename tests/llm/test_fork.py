"""A process that is forked from one with a model: told at once that it has none, and able to end."""

import asyncio
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sampan import LLM, Grammar, RequestError, SamplingParams
from sampan.core.types import ModelFiles

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
HELLO = [{"role": "user", "content": "Hello"}]
SECONDS = 20


def in_a_fork(act: Callable[[], Any]) -> int:
    """The exit code of a forked process that runs `act`; one that hangs fails the test."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def refused(call: Callable[[], Any]) -> None:
    start = time.monotonic()
    with pytest.raises(RequestError, match=r"loaded before this process was forked.*load it after the fork"):
        call()
    assert time.monotonic() - start < 2


async def _read(stream: Any) -> None:
    async for _ in stream:
        pass


CALLS: dict[str, Callable[[LLM, Path], Any]] = {
    "generate": lambda llm, _: llm.generate("Hi", GREEDY),
    "generate several": lambda llm, _: llm.generate(["Hi", "Ho"], GREEDY, n=2),
    "generate nothing": lambda llm, _: llm.generate([]),
    "grammar": lambda llm, _: llm.generate("Hi", GREEDY, grammar=Grammar("regex", "[a-z]{3}")),
    "chat": lambda llm, _: llm.chat(HELLO, GREEDY),
    "stream": lambda llm, _: llm.stream("Hi", GREEDY),
    "score": lambda llm, _: llm.score("Hi there"),
    "load_adapter": lambda llm, path: llm.load_adapter("one", path),
    "unload_adapter": lambda llm, _: llm.unload_adapter("one"),
    "update_weights": lambda llm, _: llm.update_weights({"model.norm.weight": np.ones(576, np.float32)}),
    "update_weights now": lambda llm, path: llm.update_weights(path, when="now"),
    "agenerate": lambda llm, _: asyncio.run(llm.agenerate("Hi", GREEDY)),
    "achat": lambda llm, _: asyncio.run(llm.achat(HELLO, GREEDY)),
    "ascore": lambda llm, _: asyncio.run(llm.ascore("Hi there")),
    "aload_adapter": lambda llm, path: asyncio.run(llm.aload_adapter("one", path)),
    "aunload_adapter": lambda llm, _: asyncio.run(llm.aunload_adapter("one")),
    "aupdate_weights": lambda llm, path: asyncio.run(llm.aupdate_weights(path)),
    "driver": lambda llm, _: llm.driver.call(lambda engine: engine.idle),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_in_the_child_is_refused_at_once(
    llm: LLM, at_rest: Callable[[], None], call: Callable[[LLM, Path], Any], tmp_path: Path
) -> None:
    expected = llm.generate("Hi", GREEDY)
    assert in_a_fork(lambda: refused(lambda: call(llm, tmp_path))) == 0
    assert llm.generate("Hi", GREEDY) == expected
    at_rest()


def test_a_stream_that_the_child_reads_on(llm: LLM, at_rest: Callable[[], None]) -> None:
    async def both() -> None:
        stream = llm.astream("Hi", GREEDY)
        await stream.__anext__()
        assert in_a_fork(lambda: refused(lambda: _step(stream))) == 0
        assert [delta.finish_reason async for delta in stream][-1] == "length"

    with llm.stream("Hi", GREEDY) as stream:
        next(stream)

        def read() -> None:
            refused(lambda: list(stream))
            stream.close()

        assert in_a_fork(read) == 0
        assert [delta.finish_reason for delta in stream][-1] == "length"
    asyncio.run(both())
    at_rest()


def _step(stream: Any) -> None:
    """One step of an async iterator where its loop cannot run."""
    try:
        stream.__anext__().send(None)
    except StopIteration as done:
        raise AssertionError("it was answered") from done


def _close(llm: LLM) -> None:
    llm.close()
    llm.close()
    refused(lambda: llm.generate("Hi"))


def test_closing_in_the_child_leaves_the_parents_model(llm: LLM, at_rest: Callable[[], None]) -> None:
    with llm.stream("Hi", GREEDY) as stream:
        next(stream)
        assert in_a_fork(lambda: _close(llm)) == 0
        assert stream.completion.completion_tokens > 0
    assert llm.generate("Hi", GREEDY).completion_tokens == 8
    at_rest()


def test_a_fork_while_the_model_works_and_others_ask(llm: LLM, at_rest: Callable[[], None]) -> None:
    """Whatever its threads hold at that moment."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(llm.generate, f"Number {n}", GREEDY) for n in range(40)]
        for _ in range(8):
            assert in_a_fork(lambda: refused(lambda: llm.generate("Hi", GREEDY))) == 0
        assert {each.result().completion_tokens for each in asked} == {8}
    at_rest()


ENDS = """
import os, sys, warnings
warnings.simplefilter("ignore")
from sampan import LLM, RequestError, SamplingParams
llm = LLM(context=64, max_sequences=1, threads=2)
sampling = SamplingParams(max_tokens=2, temperature=0)
if {used}:
    first = llm.generate("Hi", sampling)
child = os.fork()
if child == 0:
    try:
        llm.generate("Hi")
    except RequestError:
        print("refused", flush=True)
    {before}
    sys.exit(3)
else:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert llm.generate("Hi", sampling).completion_tokens == 2
"""


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("before", ["", "del llm", "llm.close()", "llm.close(); del llm"])
def test_a_child_ends_as_every_interpreter_does(default_model: ModelFiles, before: str, used: bool) -> None:
    """With its destructors and what is registered for the end."""
    import subprocess

    assert default_model.path.is_file()
    script = ENDS.format(before=before, used=used)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n3\n", "")


def _ask(llm: LLM, said: Any) -> None:
    try:
        said.put(llm.generate("Hi", GREEDY).text)
    except RequestError as error:
        said.put(error)


def _load(path: Path, said: Any) -> None:
    with LLM(path, context=64, max_sequences=1) as llm:
        said.put(llm.generate("Hi", GREEDY).tokens)


def test_multiprocessing_with_fork(llm: LLM, default_model: ModelFiles, at_rest: Callable[[], None]) -> None:
    forking = multiprocessing.get_context("fork")
    said = forking.SimpleQueue()
    expected = llm.generate("Hi", GREEDY).tokens
    for act, what in ((_ask, llm), (_load, default_model.path)):
        process = forking.Process(target=act, args=(what, said))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        answer = said.get()
        if act is _ask:
            assert isinstance(answer, RequestError)
            assert "load it after the fork" in str(answer)
        else:
            assert answer == expected
    at_rest()
