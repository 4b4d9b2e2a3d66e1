"""The room that bodies share: bounded, fair between keys, and given back however a request ends."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.server.errors import ApiError
from sampan.server.guard import Room
from sampan.server.names import hostname

ACTS = st.lists(st.tuples(st.sampled_from(["come", "come", "leave"]), st.integers(0, 10**6)), max_size=60)


@given(ACTS, st.integers(1, 100))
@settings(max_examples=200, deadline=None)
def test_room_is_never_overfull_and_all_given_back(acts: list[tuple[str, int]], size: int) -> None:
    async def run() -> None:
        room, tasks, held = Room(size, 10), [], []

        async def take(key: str | None, wanted: int) -> None:
            async with room.share(key, wanted):
                amount = min(wanted, size // 4)
                held.append(amount)
                assert sum(held) <= size
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    held.remove(amount)

        for what, number in acts:
            if what == "come":
                key = (None, "a", "b")[number % 3]
                tasks.append(asyncio.create_task(take(key, number % (size + 1))))
            elif tasks:
                tasks[number % len(tasks)].cancel()
            if number % 2:
                await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError | ApiError), result
        async with asyncio.timeout(5), room.share("a", size):
            assert room._free == size - size // 4

    asyncio.run(run())


def test_a_key_leaves_room_for_others() -> None:
    async def run() -> list[str]:
        room, entered = Room(100, 10), []

        async def take(key: str) -> None:
            async with room.share(key, 20):
                entered.append(key)
                await asyncio.get_running_loop().create_future()

        tasks = [asyncio.create_task(take(key)) for key in ["greedy"] * 5 + ["other"]]
        await asyncio.sleep(0.01)
        found = list(entered)
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return found

    assert asyncio.run(run()) == ["greedy", "greedy", "greedy", "other"]


def test_who_waits_in_too_many_places_is_refused() -> None:
    async def run() -> None:
        room = Room(4, 4)

        async def take(key: str) -> None:
            async with room.share(key, 1):
                await asyncio.get_running_loop().create_future()

        tasks = [asyncio.create_task(take("greedy")) for _ in range(8)]
        await asyncio.sleep(0)
        refused = [task.exception() for task in tasks if task.done()]
        assert all(isinstance(error, ApiError) and error.status == 503 for error in refused)
        assert len(refused) == 4  # two are in, two wait, and as many places are left for others
        for task in tasks:
            task.cancel()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("localhost", "localhost"), ("LocalHost.:80", "localhost"),
        ("[::1]:80", "::1"), ("127.0.0.1", "127.0.0.1"),
        ("", None), ("a:b", None), ("a:99999", None), ("x/y", None), ("u@h", None), ("[::1", None),
        (":80", None),
    ],
)  # fmt: skip
def test_the_host_of_an_authority(authority: str, host: Any) -> None:
    assert hostname(authority) == host
