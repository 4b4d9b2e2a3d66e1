"""Slots: whatever comes, leaves or fails, all that nobody holds are free; nobody waits beside a free one."""

import asyncio
import logging
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.server.ask import Caller
from sampan.server.dispatch import Dispatcher
from sampan.server.errors import ApiError

ACTS = st.lists(
    st.tuples(
        st.sampled_from(["come", "cancel", "cancel twice", "end", "fail", "wait"]), st.integers(0, 10**6)
    ),
    max_size=60,
)


class Crowd:
    """Requests of three callers on one dispatcher. `held`: those that have a slot now."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.tasks: dict[asyncio.Task[None], asyncio.Future[None]] = {}
        self.held: set[asyncio.Future[None]] = set()
        self.most = 0

    async def _request(self, caller: Caller, end: "asyncio.Future[None]") -> None:
        async with self.dispatcher.slot(caller, 1):
            self.held.add(end)
            self.most = max(self.most, len(self.held))
            try:
                await end
            finally:
                self.held.discard(end)

    async def act(self, what: str, number: int) -> None:
        if what == "come":
            end = asyncio.get_running_loop().create_future()
            caller = Caller(key=f"key{number % 3}", priority=number % 2)
            self.tasks[asyncio.create_task(self._request(caller, end))] = end
        elif what == "wait":
            await asyncio.sleep(0)
        elif self.tasks:
            task, end = list(self.tasks.items())[number % len(self.tasks)]
            if what.startswith("cancel"):
                task.cancel()
                if what == "cancel twice":
                    await asyncio.sleep(0)
                    task.cancel()
            elif end in self.held and not end.done():
                end.set_exception(RuntimeError("it fails")) if what == "fail" else end.set_result(None)

    def check(self) -> None:
        """After everybody had a turn."""
        assert self.dispatcher.free == self.dispatcher.slots - len(self.held)
        assert not (self.dispatcher.waiting and self.dispatcher.free)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            with suppress(asyncio.CancelledError, ApiError, RuntimeError):
                await task


@given(ACTS, st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_every_slot_is_given_back(acts: list[tuple[str, int]], slots: int, most_waiting: int) -> None:
    async def run() -> None:
        crowd = Crowd(Dispatcher(slots, most_waiting))
        for what, number in acts:
            await crowd.act(what, number)
            if number % 3 == 0:
                await crowd.settle()
                crowd.check()
        await crowd.settle()
        crowd.check()
        await crowd.leave()
        assert crowd.most <= slots
        assert (crowd.dispatcher.free, crowd.dispatcher.waiting) == (slots, 0)

    asyncio.run(run())


def test_a_slot_that_is_given_in_the_moment_of_cancelling_is_given_on() -> None:
    """The waiting task is cancelled and let in within one turn of the loop: the next must get the slot."""

    async def run() -> list[str]:
        dispatcher, seen = Dispatcher(1, 8), []

        async def ask(name: str, end: "asyncio.Future[None]") -> None:
            async with dispatcher.slot(Caller(), 1):
                seen.append(name)
                await end

        ends = [asyncio.get_running_loop().create_future() for _ in range(3)]
        tasks = [asyncio.create_task(ask(name, end)) for name, end in zip("abc", ends, strict=True)]
        await asyncio.sleep(0)
        ends[0].set_result(None)
        tasks[1].cancel()  # its future is cancelled at once, its task ends after the first one's
        ends[2].set_result(None)
        await asyncio.wait(tasks, timeout=5)
        assert dispatcher.free == 1
        return seen

    assert asyncio.run(run()) == ["a", "c"]


def test_a_dropped_request_whose_client_has_left_harms_nobody() -> None:
    async def run() -> None:
        dispatcher = Dispatcher(1, 3)
        hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def ask(key: str) -> None:
            async with dispatcher.slot(Caller(key=key), 1):
                await hold

        greedy = [asyncio.create_task(ask("greedy")) for _ in range(4)]
        await asyncio.sleep(0)
        greedy[3].cancel()  # the newest of the greedy, which room is made of
        others = [asyncio.create_task(ask("other"))]
        await asyncio.sleep(0)
        hold.set_result(None)
        done = await asyncio.gather(*greedy, *others, return_exceptions=True)
        assert isinstance(done[3], asyncio.CancelledError)
        assert [result for result in done if result is not done[3]] == [None] * 4
        assert dispatcher.free == 1

    asyncio.run(run())


def test_the_watchdog_says_that_work_waits_beside_free_slots(caplog: pytest.LogCaptureFixture) -> None:
    """No way to come there is known: the state is made by hand."""

    async def run() -> Dispatcher:
        dispatcher = Dispatcher(1, 8)
        stuck = asyncio.get_running_loop().create_future()
        dispatcher._queue.push(stuck, None)
        watch = asyncio.create_task(dispatcher.watch(0.01))
        await asyncio.wait_for(stuck, 5)
        watch.cancel()
        return dispatcher

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(run()).unstuck == 1
    assert "1 requests waited beside 1 free slots" in caplog.text


def test_a_full_queue_refuses() -> None:
    async def run() -> None:
        dispatcher = Dispatcher(1, 1)
        async with dispatcher.slot(Caller(), 1):
            waiting = asyncio.create_task(dispatcher.slot(Caller(), 1).__aenter__())
            await asyncio.sleep(0)
            with pytest.raises(ApiError) as refused:
                await dispatcher.slot(Caller(), 1).__aenter__()
            assert refused.value.status == 503
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        assert (dispatcher.free, dispatcher.waiting) == (1, 0)

    asyncio.run(run())
