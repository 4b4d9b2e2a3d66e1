"""Who abandons answers may hold fewer slots, for a while."""

import asyncio
from contextlib import suppress

import pytest

from sampan.server.allowance import Allowance
from sampan.server.ask import Caller
from sampan.server.dispatch import Dispatcher


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _most(allowance: Allowance, key: str) -> int:
    """How many slots it can take now; they are given back."""
    taken = 0
    while taken < 1000 and allowance.allows(key):
        allowance.take(key)
        taken += 1
    for _ in range(taken):
        allowance.give_back(key)
    return taken


def test_each_abandoned_answer_halves_it_down_to_a_thirty_second(clock: Clock) -> None:
    allowance = Allowance(64, clock)
    assert _most(allowance, "a") == 64
    found = []
    for _ in range(6):
        allowance.abandoned("a")
        found.append(_most(allowance, "a"))
    assert found == [32, 16, 8, 4, 2, 2]
    assert allowance.allows("b")


def test_answers_and_time_give_back(clock: Clock) -> None:
    allowance = Allowance(64, clock)
    for _ in range(8):
        allowance.abandoned("a")
    for _ in range(10):
        allowance.taken("a")
    assert _most(allowance, "a") == 12
    clock.now += 30
    assert _most(allowance, "a") == 28
    clock.now += 120
    assert _most(allowance, "a") == 64


def test_without_keys_nobody_is_limited(clock: Clock) -> None:
    allowance = Allowance(4, clock)
    for _ in range(100):
        allowance.abandoned(None)
    assert allowance.allows(None)
    assert Allowance(1, clock).is_owed("a")


def test_others_pass_a_caller_that_abandons() -> None:
    async def run() -> list[str]:
        dispatcher, order = Dispatcher(32, 100), []

        async def ask(key: str) -> None:
            async with dispatcher.slot(Caller(key=key), 1) as turn:
                order.append(key)
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    dispatcher.ended(turn, abandoned=True)

        first = [asyncio.create_task(ask("rude")) for _ in range(32)]
        await asyncio.sleep(0)
        assert order == ["rude"] * 32
        waiting = [asyncio.create_task(ask("rude")) for _ in range(20)]
        waiting += [asyncio.create_task(ask("kind")) for _ in range(20)]
        await asyncio.sleep(0)
        for task in first:
            task.cancel()
        await asyncio.sleep(0.01)
        found = order[32:]
        for task in waiting:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert (dispatcher.free, dispatcher.waiting) == (32, 0)
        return found

    found = asyncio.run(run())
    assert found.count("kind") == 20
    assert found.count("rude") == 1  # though twelve slots are free
