"""Who is next: by priority, then the caller that has been served least, then in order of arrival.

Contract: the Virtual Token Counter of Sheng et al., "Fairness in Serving Large Language Models"
(arXiv:2401.00588). Every caller has a counter of the tokens it was served. A caller that comes back after a
pause is lifted to the least counter of those waiting, so that a pause saves up nothing. Callers that always
have requests waiting are served the same number of tokens, up to a bound that does not grow with time.
A lower priority number goes first, always: those behind it wait for as long as it lasts.

The queue is bounded. When it is full, room for a caller is made at the cost of a worse priority, or of the
caller with the most requests waiting, whose newest is dropped: nobody can fill the queue for everybody.
For one thread; the clock is monotonic.
"""

import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from sampan.server.errors import ApiError
from sampan.server.storage.keys import Clock

T = TypeVar("T")
May = Callable[[str | None], bool]
"""Whether a caller may be served now."""

ANSWER_WEIGHT = 2.0
"""A token of an answer counts as two of a prompt (section 5.1 there): it takes a step of its own."""

_RECENT = 64
_RECENT_SECONDS = 60.0
_UNKNOWN_WAIT = 5.0
_SHORTEST_WAIT, _LONGEST_WAIT = 1.0, 60.0


@dataclass(eq=False)
class Flow(Generic[T]):
    """The requests of one caller at one priority. `served`: its virtual token counter."""

    caller: str | None
    level: "Level[T]"
    served: float = 0.0
    waiting: "OrderedDict[Ticket[T], None]" = field(default_factory=OrderedDict)
    in_heap: bool = False


@dataclass(eq=False)
class Ticket(Generic[T]):
    """One request in the queue or taken from it. `prompt_tokens`, 1 or more, are charged when it is taken."""

    item: T
    prompt_tokens: int
    flow: Flow[T] = field(repr=False)


@dataclass(eq=False)
class Level(Generic[T]):
    """The callers of one priority. `last`: the one served last."""

    flows: dict[str | None, Flow[T]] = field(default_factory=dict)
    heap: list[tuple[float, int, Flow[T]]] = field(default_factory=list)
    last: Flow[T] | None = None

    def least(self, may: May = lambda _: True) -> Flow[T] | None:
        """The waiting flow with the least counter, of those that may be served."""
        # Counters only grow, so an entry is a lower bound: one that is out of date sinks to its place.
        aside, found = [], None
        while self.heap and found is None:
            served, order, flow = self.heap[0]
            if not flow.waiting:
                heapq.heappop(self.heap)
                flow.in_heap = False
            elif served != flow.served:
                heapq.heapreplace(self.heap, (flow.served, order, flow))
            elif not may(flow.caller):
                aside.append(heapq.heappop(self.heap))
            else:
                found = flow
        for entry in aside:
            heapq.heappush(self.heap, entry)
        return found


class FairQueue(Generic[T]):
    """A queue of at most `limit` requests. `dropped` is told which one was dropped for another, and why.

    `gone`: whether nobody waits for a request any more, though it was not cancelled yet; it is passed over.
    """

    def __init__(
        self,
        limit: int,
        dropped: Callable[[T, ApiError], None],
        gone: Callable[[T], bool] = lambda _: False,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        assert limit >= 1
        self.limit = limit
        self._dropped = dropped
        self._gone = gone
        self._clock = clock
        self._levels: dict[int, Level[T]] = {}
        self._size = 0
        self._order = count()
        self._taken: deque[float] = deque(maxlen=_RECENT)

    def __len__(self) -> int:
        return self._size

    def push(self, item: T, caller: str | None, priority: int = 0, prompt_tokens: int = 1) -> Ticket[T]:
        """Let a request wait. Raises `ApiError` 429 or 503 when the queue is full and stays so."""
        level = self._levels.setdefault(priority, Level())
        flow = level.flows.get(caller)
        if flow is None:
            flow = level.flows[caller] = Flow(caller, level)
        if self._size >= self.limit:
            self._make_room(flow, priority)
        self._join(flow)
        ticket = Ticket(item, prompt_tokens, flow)
        flow.waiting[ticket] = None
        self._size += 1
        return ticket

    def has(self, may: May) -> bool:
        """Whether a request waits of a caller that may be served."""
        return any(level.least(may) for level in self._levels.values())

    def pop(self, may: May = lambda _: True) -> Ticket[T] | None:
        """Take the next request of a caller that may be served, and charge its prompt; None for none."""
        for priority in sorted(self._levels):
            level = self._levels[priority]
            while (flow := level.least(may)) is not None:
                ticket, _ = flow.waiting.popitem(last=False)
                self._size -= 1
                if self._gone(ticket.item):
                    continue
                level.last = flow
                flow.served += ticket.prompt_tokens
                self._taken.append(self._clock())
                return ticket
        return None

    def charge(self, ticket: Ticket[T], answer_tokens: int) -> None:
        """Count tokens that were generated for a request; best at each step, else at its end."""
        ticket.flow.served += ANSWER_WEIGHT * answer_tokens

    def cancel(self, ticket: Ticket[T]) -> bool:
        """Take a request out; False when it was not waiting any more."""
        if ticket not in ticket.flow.waiting:
            return False
        del ticket.flow.waiting[ticket]
        self._size -= 1
        return True

    def retry_after(self) -> float:
        """Seconds in which the queue as it is now will have been served, from the rate of late; 1 … 60."""
        now = self._clock()
        ages = [now - taken for taken in self._taken if now - taken < _RECENT_SECONDS]
        if not ages:
            return _UNKNOWN_WAIT
        a_request = max(ages) / len(ages)
        return min(max(self._size * a_request, _SHORTEST_WAIT), _LONGEST_WAIT)

    def _join(self, flow: Flow[T]) -> None:
        if flow.waiting:
            return
        level = flow.level
        # With nobody waiting it is the last one served: see the paper's algorithm 2, lines 6 to 12.
        other = level.least() or level.last
        if other is not None:
            flow.served = max(flow.served, other.served)
        if not flow.in_heap:
            heapq.heappush(level.heap, (flow.served, next(self._order), flow))
            flow.in_heap = True

    def _make_room(self, newcomer: Flow[T], priority: int) -> None:
        worst = max(p for p, level in self._levels.items() if level.least())
        greedy = max(self._levels[worst].flows.values(), key=lambda flow: len(flow.waiting))
        is_fairer = worst == priority and len(greedy.waiting) > len(newcomer.waiting) + 1
        if not is_fairer and worst <= priority:
            raise self._too_many(newcomer) if self._has_its_share(newcomer) else self._overloaded()
        victim = next(reversed(greedy.waiting))
        self.cancel(victim)
        self._dropped(victim.item, self._too_many(greedy) if is_fairer else self._overloaded())

    def _has_its_share(self, flow: Flow[T]) -> bool:
        callers = sum(bool(other.waiting) for other in flow.level.flows.values())
        return callers > 1 and len(flow.waiting) * callers > self.limit

    def _too_many(self, flow: Flow[T]) -> ApiError:
        return ApiError(
            429,
            f"the queue is full and {len(flow.waiting)} requests of this key wait in it, "
            "more than its share: send fewer at a time",
            kind="requests",
            code="rate_limit_exceeded",
            retry_after=self.retry_after(),
        )

    def _overloaded(self) -> ApiError:
        return ApiError(
            503,
            f"the server is overloaded: {self.limit} requests are waiting",
            kind="server_error",
            code="overloaded",
            retry_after=self.retry_after(),
        )
