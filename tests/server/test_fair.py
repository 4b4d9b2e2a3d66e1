"""The fair queue: order, shares, bounds, and what is shed."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from sampan.server.errors import ApiError
from sampan.server.fair import FairQueue


@dataclass
class World:
    """A queue with a clock of its own, and what it has dropped."""

    limit: int = 10_000
    now: float = 0.0
    dropped: list[tuple[str, ApiError]] = field(default_factory=list)

    def queue(self) -> FairQueue[str]:
        return FairQueue(self.limit, lambda item, error: self.dropped.append((item, error)), clock=self.clock)

    def clock(self) -> float:
        return self.now


def drain(queue: FairQueue[str]) -> list[str]:
    taken = []
    while (ticket := queue.pop()) is not None:
        taken.append(ticket.item)
    return taken


def test_one_caller_is_served_in_order_of_arrival() -> None:
    queue = World().queue()
    for item in "abcdef":
        queue.push(item, "one", prompt_tokens=ord(item))
    assert len(queue) == 6
    assert "".join(drain(queue)) == "abcdef"
    assert queue.pop() is None


def test_callers_take_turns_whoever_came_first() -> None:
    queue = World().queue()
    for item in "aaaaaa":
        queue.push(item, "a", prompt_tokens=10)
    for item in "bbb":
        queue.push(item, "b", prompt_tokens=10)
    assert "".join(drain(queue)) == "abababaaa"


def test_a_lower_priority_number_goes_first() -> None:
    queue = World().queue()
    queue.push("late", "a", priority=5)
    queue.push("usual", "b")
    queue.push("soon", "c", priority=-1)
    queue.push("usual too", "a")
    assert drain(queue) == ["soon", "usual", "usual too", "late"]


def test_long_answers_count() -> None:
    queue = World().queue()
    for n in range(4):
        queue.push(f"long {n}", "long", prompt_tokens=10)
        queue.push(f"short {n}", "short", prompt_tokens=10)
    first = queue.pop()
    assert first is not None
    assert first.item == "long 0"
    queue.charge(first, 14)  # 10 + 2 * 14 = 38: nearly four short ones
    assert drain(queue)[:5] == ["short 0", "short 1", "short 2", "short 3", "long 1"]


def test_a_pause_saves_up_nothing() -> None:
    queue = World().queue()
    queue.push("first", "idle", prompt_tokens=1)
    queue.pop()
    for n in range(200):
        queue.push(f"busy {n}", "busy", prompt_tokens=100)
    for _ in range(100):
        queue.pop()
    for n in range(50):
        queue.push(f"idle {n}", "idle", prompt_tokens=100)
    taken = Counter(item.split()[0] for item in drain(queue)[:40])
    assert taken == {"busy": 20, "idle": 20}


def test_a_pause_saves_up_nothing_when_the_queue_was_empty_in_between() -> None:
    queue = World().queue()
    queue.push("first", "idle", prompt_tokens=1)
    queue.pop()
    for n in range(100):  # alone, and never waiting
        queue.push(f"busy {n}", "busy", prompt_tokens=100)
        queue.pop()
    for n in range(20):
        queue.push(f"idle {n}", "idle", prompt_tokens=100)
        queue.push(f"busy {n}", "busy", prompt_tokens=100)
    taken = Counter(item.split()[0] for item in drain(queue)[:20])
    assert taken["busy"] >= 9


def test_what_is_cancelled_is_never_taken() -> None:
    queue = World().queue()
    tickets = [queue.push(item, caller) for item, caller in zip("abcdef", "xyxyxy", strict=True)]
    assert queue.cancel(tickets[0])
    assert queue.cancel(tickets[3])
    assert not queue.cancel(tickets[3])
    assert len(queue) == 4
    assert sorted(drain(queue)) == ["b", "c", "e", "f"]
    assert not queue.cancel(tickets[1])
    assert len(queue) == 0


# Full.


def test_one_caller_alone_gets_the_whole_queue_and_then_503() -> None:
    queue = World(limit=4).queue()
    for item in "abcd":
        queue.push(item, None)
    with pytest.raises(ApiError, match="4 requests are waiting") as caught:
        queue.push("e", None)
    assert (caught.value.status, caught.value.retry_after) == (503, 5)
    assert "".join(drain(queue)) == "abcd"


def test_nobody_can_fill_the_queue_for_everybody() -> None:
    world = World(limit=8)
    queue = world.queue()
    for n in range(8):
        queue.push(f"greedy {n}", "greedy")
    for n in range(4):
        queue.push(f"other {n}", "other")
    assert [item for item, _ in world.dropped] == ["greedy 7", "greedy 6", "greedy 5", "greedy 4"]
    assert {error.status for _, error in world.dropped} == {429}
    for who in ("greedy", "other"):
        with pytest.raises(ApiError) as caught:
            queue.push("more", who)
        assert caught.value.status == 503
    queue.push("third", "third")
    assert len(queue) == 8
    assert Counter(item.split()[0] for item in drain(queue)) == {"greedy": 3, "other": 4, "third": 1}


def test_who_holds_more_than_a_share_is_told_so() -> None:
    world = World(limit=4)
    queue = world.queue()
    queue.push("x", "other")
    for n in range(3):
        queue.push(f"g{n}", "greedy")
    with pytest.raises(ApiError, match="3 requests of this key wait in it, more than its share") as caught:
        queue.push("g3", "greedy")
    assert caught.value.status == 429


def test_a_better_priority_finds_room_and_a_worse_one_does_not() -> None:
    world = World(limit=2)
    queue = world.queue()
    queue.push("a", "a", priority=1)
    queue.push("b", "b", priority=1)
    queue.push("c", "c", priority=0)
    assert [item for item, _ in world.dropped] == ["a"]
    with pytest.raises(ApiError):
        queue.push("d", "d", priority=2)
    assert drain(queue) == ["c", "b"]


def test_retry_after_is_the_time_the_queue_takes() -> None:
    world = World()
    queue = world.queue()
    assert queue.retry_after() == 5  # nothing is known yet
    for n in range(120):
        queue.push(str(n), "a")
    for _ in range(20):
        queue.pop()
        world.now += 0.25
    assert queue.retry_after() == pytest.approx(100 * 0.25)
    world.now += 30  # a stall: what it knew was too good
    assert queue.retry_after() == 60
    world.now += 3600  # last night says nothing
    assert queue.retry_after() == 5
    drain(queue)
    assert queue.retry_after() == 1


def test_thousands_of_requests_of_a_thousand_callers_cost_little() -> None:
    """Work is counted, not timed: the heap is touched a bounded number of times per request."""
    world = World(limit=4096)
    queue = world.queue()
    rng = random.Random(1)
    tickets = [
        queue.push(str(n), str(n % 1000), rng.randint(0, 2), prompt_tokens=rng.randint(1, 500))
        for n in range(4096)
    ]
    for ticket in rng.sample(tickets, 1000):
        queue.cancel(ticket)
    assert len(queue) == 3096
    assert len(drain(queue)) == 3096
    assert sum(len(level.heap) for level in queue._levels.values()) <= 3000
