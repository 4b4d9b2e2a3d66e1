"""Random traffic: everyone is served, in turn, what they would get alone; every step is checked."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

Simulate = Callable[..., Any]
Traffic = dict[str, Any]


def stranger(number: int, length: int) -> tuple[int, ...]:
    """A prompt that begins like no other's."""
    return tuple(1 + (number * 7 + i) % 39 for i in range(length))


@st.composite
def traffic(draw: st.DrawFn, aborts: bool = True, strangers: bool = False) -> Traffic:
    """Requests that each fit the pool alone; prompts share prefixes or are the same, unless they are
    `strangers`."""
    pages, size = draw(st.integers(1, 10)), draw(st.integers(1, 6))
    capacity = pages * size
    common = draw(st.lists(st.integers(1, 3), min_size=capacity, max_size=capacity))
    requests = []
    for number in range(draw(st.integers(1, 8)) if capacity > 1 else 0):
        length = draw(st.integers(1, capacity // 2) | st.integers(1, capacity - 1))
        shared = 0 if strangers else draw(st.integers(0, length))
        answer = capacity - length - draw(st.integers(0, capacity - length - 1))
        abort = draw(st.none() | st.integers(0, 40)) if aborts else None
        prompt = (*common[:shared], *stranger(number, length - shared))
        if requests and not strangers and draw(st.booleans()):
            _, prompt, answer, _ = draw(st.sampled_from(requests))
        requests.append((draw(st.integers(0, 9)), prompt, answer, abort))
    return {
        "pages": pages,
        "size": size,
        "max_rows": draw(st.integers(1, 20)),
        "max_sequences": draw(st.integers(1, 6)),
        "requests": sorted(requests, key=lambda request: request[0]),
        "draft_rows": draw(st.integers(0, 12)),
        "reuse": draw(st.booleans()),
        "memory": draw(st.sampled_from([1, 2, 99])),
        "states": draw(st.just(0) | st.integers(1, 8)),
    }


TIGHT = [(0, stranger(0, 5), 7), (0, stranger(1, 3), 9), (1, stranger(2, 8), 4), (2, stranger(3, 1), 11)]


@settings(max_examples=400, deadline=None)
@given(traffic())
@example({"pages": 3, "size": 4, "max_rows": 2, "max_sequences": 4, "requests": TIGHT})
def test_everyone_is_served_what_they_would_get_alone(simulation: Simulate, traffic: Traffic) -> None:
    run = simulation(**traffic).run()
    assert run.scheduler.idle
    assert run.pool.free == run.pool.count
    for number in range(len(traffic["requests"])):
        expected, events = run.expected(number), run.events[number]
        tokens = [event.token.token for event in events if event.token is not None]
        if number in run.aborted:
            assert tokens == expected[: len(tokens)]
            assert all(event.finish_reason is None for event in events)
            continue
        assert tokens == expected
        reasons = [event.finish_reason for event in events]
        assert reasons == [None] * (len(tokens) - 1) + ["stop" if tokens[-1] == 0 else "length"]


@settings(max_examples=100, deadline=None)
@given(traffic(aborts=False, strangers=True))
def test_first_come_first_served(simulation: Simulate, traffic: Traffic) -> None:
    starts = simulation(**traffic).run().first_steps
    assert all(starts[a] <= starts[b] for a, b in pairwise(range(len(traffic["requests"]))))


def test_a_large_request_is_not_starved_by_a_stream_of_small_ones(simulation: Simulate) -> None:
    requests = [(n, stranger(n, 2), 6) for n in range(40)]
    requests.insert(4, (3, stranger(40, 28), 4))
    run = simulation(8, 4, 8, 8, requests).run()
    assert run.events[4][-1].finish_reason is not None
    assert run.first_steps[4] < 15


def test_a_long_prompt_does_not_stall_those_who_decode(simulation: Simulate) -> None:
    run = simulation(64, 4, 8, 8)
    for n in range(3):
        run.add([n + 1], 60)
    run.step()
    run.add([9] * 100, 101)
    for _ in range(20):
        events = run.step()
        assert {0, 1, 2} <= {event.request for event in events}
    assert run.events[3]


def test_the_youngest_gives_way_and_comes_back_before_those_who_came_later(simulation: Simulate) -> None:
    run = simulation(6, 4, 8, 3, reuse=False)
    for number in range(4):
        run.add([number + 1] * 3, 16)
    while len(run.scheduler.running) != 2:
        run.step()
    assert [sequence.id for sequence in run.scheduler.running] == [0, 1]
    assert [sequence.id for sequence in run.scheduler.waiting] == [2, 3]
    assert run.scheduler.counters.preempted == 1
    ended: list[int] = []
    while not run.scheduler.idle:
        ended += [event.request for event in run.step() if event.finish_reason is not None]
    assert ended == [0, 1, 2, 3]
