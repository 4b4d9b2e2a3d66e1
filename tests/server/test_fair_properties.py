"""What the fair queue promises, whatever happens: nothing is lost, shares stay close, nobody starves."""

import random
from collections import defaultdict
from itertools import count

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sampan.server.errors import ApiError
from sampan.server.fair import ANSWER_WEIGHT, FairQueue, Ticket


def roomy() -> FairQueue[str]:
    """A queue that need not drop anything."""

    def drop(_item: str, error: ApiError) -> None:
        raise error

    return FairQueue(10_000, drop, clock=lambda: 0.0)


class Queue(RuleBasedStateMachine):
    """Whatever happens: nothing is lost, nothing comes twice, and each caller's requests keep their order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue(12, self._drop)
        self.names = count()
        self.waiting: dict[int, tuple[Ticket[int], str, int]] = {}
        self.running: list[Ticket[int]] = []

    def _drop(self, item: int, error: ApiError) -> None:
        assert error.status in (429, 503)
        assert (error.retry_after or 0) >= 1
        del self.waiting[item]

    @rule(caller=st.sampled_from("abcd"), priority=st.integers(0, 1), tokens=st.integers(1, 50))
    def push(self, caller: str, priority: int, tokens: int) -> None:
        name = next(self.names)
        was = len(self.queue)
        try:
            ticket = self.queue.push(name, caller, priority, tokens)
        except ApiError:
            assert was == 12
            return
        self.waiting[name] = (ticket, caller, priority)

    @rule()
    def pop(self) -> None:
        ticket = self.queue.pop()
        assert (ticket is None) == (not self.waiting)
        if ticket is None:
            return
        _, caller, priority = self.waiting.pop(ticket.item)
        assert priority == min([priority, *(p for _, _, p in self.waiting.values())])
        mine = [name for name, (_, c, p) in self.waiting.items() if (c, p) == (caller, priority)]
        assert ticket.item < min(mine, default=ticket.item + 1)
        self.running.append(ticket)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.waiting:
            name = data.draw(st.sampled_from(sorted(self.waiting)))
            assert self.queue.cancel(self.waiting.pop(name)[0])

    @rule(data=st.data(), tokens=st.integers(0, 500))
    def charge(self, data: st.DataObject, tokens: int) -> None:
        if self.running:
            self.queue.charge(data.draw(st.sampled_from(self.running)), tokens)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.queue) == len(self.waiting)


TestQueue = Queue.TestCase


@given(
    seed=st.integers(0, 2**32),
    slots=st.integers(1, 8),
    sizes=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 100)), min_size=2, max_size=5),
)
def test_shares_of_callers_that_always_wait_stay_within_a_bound(
    seed: int, slots: int, sizes: list[tuple[int, int]]
) -> None:
    """Theorem 4.4 there: service differs by at most 2 max(w_p L, w_q M), however long it goes on."""
    rng = random.Random(seed)
    queue = roomy()
    served: dict[str, float] = defaultdict(float)
    running: list[tuple[Ticket[str], int]] = []
    for caller, (prompt, _) in enumerate(sizes):
        for _ in range(3):
            queue.push(str(caller), str(caller), prompt_tokens=prompt)
    longest = max(prompt for prompt, _ in sizes)
    most = slots * max(prompt + 2 * answer for prompt, answer in sizes)
    for _ in range(1500):
        while len(running) < slots:
            ticket = queue.pop()
            assert ticket is not None
            prompt, answer = sizes[int(ticket.item)]
            served[ticket.item] += prompt
            running.append((ticket, rng.randint(1, 2 * answer)))
            queue.push(ticket.item, ticket.item, prompt_tokens=prompt)
        for ticket, _ in running:
            queue.charge(ticket, 1)
            served[ticket.item] += ANSWER_WEIGHT
        running = [(ticket, left - 1) for ticket, left in running if left > 1]
        shares = [served[str(caller)] for caller in range(len(sizes))]
        assert max(shares) - min(shares) <= 2 * max(longest, ANSWER_WEIGHT * most)


@given(seed=st.integers(0, 2**32), burst=st.integers(1, 30))
def test_nobody_starves(seed: int, burst: int) -> None:
    """A caller with one request is served soon, whatever hundreds of requests others pour in."""
    rng = random.Random(seed)
    queue = roomy()
    for _ in range(rng.randint(0, 300)):
        queue.push("greedy", f"greedy {rng.randint(0, 4)}", prompt_tokens=rng.randint(1, 100))
    for _ in range(rng.randint(0, len(queue))):
        queue.pop()
    queue.push("modest", "modest", prompt_tokens=100)
    for turn in count():
        for _ in range(burst):
            queue.push("greedy", f"greedy {rng.randint(0, 4)}", prompt_tokens=100)
        ticket = queue.pop()
        assert ticket is not None
        if ticket.item == "modest":
            break
        # Five others may each have 100 tokens to catch up, in prompts of one token and more.
        assert turn < 1000
