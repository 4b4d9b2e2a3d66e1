"""Many callers at once: batched together, aborted at once, and none harmed by another's failure."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import pytest

from sampan import LLM, OutOfMemory, RequestError, SampanError, SamplingParams
from sampan.core.types import ModelFiles, Scoring
from sampan.llm.driver import Generation, Request

GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
ENDLESS = SamplingParams(max_tokens=450, temperature=1, seed=3, ignore_eos=True)
TEXTS = [f"Number {n} and number {n + 1}" for n in range(8)]
Rest = Callable[[], None]


@pytest.fixture
def steps(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For every step that runs, how many requests it served."""
    counts: list[int] = []
    real = llm.engine.step

    def step() -> Any:
        events = real()
        counts.append(len({event.request for event in events}))
        return events

    monkeypatch.setattr(llm.engine, "step", step)
    return counts


def test_threads_and_tasks_are_answered_in_the_same_steps(llm: LLM, at_rest: Rest, steps: list[int]) -> None:
    long = replace(GREEDY, max_tokens=40)
    expected = llm.generate(TEXTS, long)
    del steps[:]

    async def ask() -> list[object]:
        return await asyncio.gather(*(llm.agenerate(text, long) for text in TEXTS[4:]))

    with ThreadPoolExecutor() as pool:
        threads = [pool.submit(llm.generate, text, long) for text in TEXTS[:4]]
        tasks = pool.submit(lambda: asyncio.run(ask()))
        assert [thread.result() for thread in threads] + tasks.result() == expected
    assert max(steps) == len(TEXTS)
    at_rest()


def test_closing_dropping_and_cancelling_abort(llm: LLM, at_rest: Rest, steps: list[int]) -> None:
    with llm.stream(TEXTS[0], ENDLESS) as stream:
        next(stream)
    at_rest()
    assert stream.completion.finish_reason == "abort"
    assert list(stream) == []
    for _ in llm.stream(TEXTS[0], ENDLESS):
        break
    at_rest()

    async def cancel() -> None:
        task = asyncio.create_task(llm.agenerate(TEXTS[:3], ENDLESS))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async for _ in llm.astream(TEXTS[0], ENDLESS):
            break

    asyncio.run(cancel())
    at_rest()
    assert sum(steps) < 4 * 450


def test_a_closed_event_loop_is_no_harm(llm: LLM, at_rest: Rest) -> None:
    async def leave() -> object:
        stream = llm.astream(TEXTS[0], ENDLESS)
        await stream.__anext__()
        return stream

    stream = asyncio.run(leave())
    at_rest()
    assert stream is not None
    assert llm.generate(TEXTS[0], GREEDY).completion_tokens == 12


def test_an_interrupt_ends_the_callers_request(llm: LLM, at_rest: Rest) -> None:
    llm.generate(TEXTS[0], GREEDY)
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            llm.generate(TEXTS, ENDLESS)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    at_rest()


def test_a_score_waits_for_its_pages(default_model: ModelFiles) -> None:
    """Answers fill the cache: a score that needs most of it has to wait, and gets what it gets alone."""
    with LLM(default_model, context=192, cache_tokens=256) as llm:
        ids = llm.encode("A line of text, and one more. " * 40)[:190]
        alone = llm.score(ids)
        with ThreadPoolExecutor() as pool:
            crowd = pool.submit(llm.generate, [[n, *ids[:90]] for n in range(4)], GREEDY)
            scores = [pool.submit(llm.score, ids) for _ in range(2)]
            assert [score.result() for score in scores] == [alone, alone]
            assert {answer.completion_tokens for answer in crowd.result()} == {12}


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (OutOfMemory, OutOfMemory, "no more memory"),
        (ZeroDivisionError, SampanError, "the engine failed: ZeroDivisionError: no more memory"),
    ],
)
def test_a_failed_step_fails_its_requests_and_nothing_else(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, failure: type[Exception], kind: type[Exception], said: str
) -> None:
    def fail(_plan: object) -> object:
        raise failure("no more memory")

    expected = llm.generate(TEXTS[0], GREEDY)
    with monkeypatch.context() as patch:
        patch.setattr(llm.engine.runner, "run", fail)
        with pytest.raises(kind, match=said):
            llm.generate(TEXTS, GREEDY)
        with pytest.raises(kind, match=said):
            asyncio.run(llm.agenerate(TEXTS[0], GREEDY))
    assert llm.generate(TEXTS[0], GREEDY) == expected


def scoring(ids: Any, deliver: Any) -> Generation:
    """A ticket that scores."""
    return Generation([Request(ids, SamplingParams(max_tokens=0), scoring=Scoring())], deliver)


class _Careless(BaseException):
    pass


@pytest.mark.parametrize("failure", [ValueError, RuntimeError, SystemExit, KeyboardInterrupt, _Careless])
def test_a_callback_that_fails_ends_its_own_ticket(
    llm: LLM, at_rest: Rest, failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises, at its first news or later, while others are answered in the same steps."""
    heard: list[Any] = []

    def deliver(news: Any) -> None:
        heard.append(news)
        if len(heard) == 3:
            raise failure("not my day")

    expected = llm.generate(TEXTS[1], GREEDY)
    ids = llm.encode(TEXTS[0])
    careless = Generation([Request(ids, ENDLESS), Request(ids, ENDLESS)], deliver)
    deaf = scoring(ids, deliver)
    with llm.stream(TEXTS[1], GREEDY) as stream:
        llm.driver.submit(careless)
        assert list(stream)[-1].finish_reason == "length"
        assert stream.completion == expected
    while not careless.closed:
        time.sleep(0.01)
    heard[:] = [None, None]
    llm.driver.submit(deaf)
    assert llm.generate(TEXTS[1], GREEDY) == expected
    at_rest()
    assert len(heard) == 3  # no more news for who failed to take them
    assert (careless.closed, deaf.closed) == (True, True)
    assert [record.getMessage() for record in caplog.records] == [
        "a ticket's deliver failed, its requests are withdrawn"
    ] * 2


@pytest.mark.parametrize("tokens", [None, 7, [1, None], [1.5], "ab"])
def test_tokens_that_are_none_end_their_own_ticket(llm: LLM, at_rest: Rest, tokens: Any) -> None:
    heard: SimpleQueue[Any] = SimpleQueue()
    expected = llm.generate(TEXTS[1], GREEDY)
    with llm.stream(TEXTS[1], GREEDY) as stream:
        next(stream)
        llm.driver.submit(scoring(tokens, heard.put))
        llm.driver.submit(Generation([Request(tokens, GREEDY)], heard.put))
        for _ in stream:
            pass
        assert stream.completion == expected
    for error in (heard.get(timeout=30), heard.get(timeout=30)):
        assert isinstance(error, RequestError)
        assert "the prompt" in str(error)
    at_rest()


def test_what_is_done_with_the_engine_may_fail(llm: LLM, at_rest: Rest) -> None:
    expected = llm.generate(TEXTS[0], GREEDY)
    for failure in (ZeroDivisionError, SystemExit):

        def act(_engine: Any, failure: type[BaseException] = failure) -> None:
            raise failure

        with pytest.raises(SampanError, match=f"the engine failed: {failure.__name__}"):
            llm.driver.call(act)
    assert llm.generate(TEXTS[0], GREEDY) == expected
    at_rest()


def test_an_idle_model_uses_no_processor(llm: LLM, at_rest: Rest) -> None:
    llm.generate(TEXTS[0], GREEDY)
    at_rest()
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


def test_closing_tells_who_waits_and_who_comes_later(default_model: ModelFiles) -> None:
    before = _threads()
    llm = LLM(default_model, context=512, max_sequences=4)
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(llm.generate, text, ENDLESS) for text in TEXTS[:2]]
        stream = llm.stream(TEXTS[3], ENDLESS)
        next(stream)
        llm.close()
        for each in waiting:
            with pytest.raises(RequestError, match="this LLM is closed"):
                each.result()
    with pytest.raises(RequestError, match="this LLM is closed"):
        list(stream)
    for call in (llm.generate, llm.score, llm.stream):
        with pytest.raises(RequestError, match="make a new one"):
            call(TEXTS[0])
    llm.close()
    assert _threads() == before


def test_a_model_for_one_event_loop(default_model: ModelFiles) -> None:
    async def ask() -> LLM:
        async with LLM(default_model, context=64, max_sequences=1) as llm:
            assert (await llm.agenerate("Hi", GREEDY)).completion_tokens == 12
            return llm

    with pytest.raises(RequestError, match="this LLM is closed"):
        asyncio.run(ask()).generate("Hi")


def test_a_process_may_end_without_closing(default_model: ModelFiles) -> None:
    script = (
        "from sampan import LLM, SamplingParams\n"
        "llm = LLM(context=512)\n"
        "stream = llm.stream('Once', SamplingParams(max_tokens=400, ignore_eos=True))\n"
        "print(next(stream).finish_reason)\n"
    )
    assert default_model.path.is_file()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


def test_a_dropped_model_ends_its_thread(default_model: ModelFiles) -> None:
    before = _threads()
    llm = LLM(default_model, context=64, max_sequences=1)
    assert _threads() == before  # it starts with the first request
    llm.generate("Hi", SamplingParams(max_tokens=2))
    (thread,) = _threads() - before
    del llm
    thread.join(30)
    assert not thread.is_alive()


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "sampan-engine"}
