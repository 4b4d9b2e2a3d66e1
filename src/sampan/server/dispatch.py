"""Who goes next: so many requests hold a slot, the rest wait fairly.

Contract: a slot belongs to the scope that waited for it, and is free again when the scope ends, however it
ends: answered, failed, cancelled while it waited, or cancelled in the moment in which it was given the slot.
A caller that abandons its answers may hold fewer (`allowance.py`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sampan.server.allowance import Allowance
from sampan.server.ask import Caller
from sampan.server.errors import ApiError
from sampan.server.fair import FairQueue, Ticket

log = logging.getLogger("sampan.server")

Turn = Ticket[asyncio.Future[None]]
"""A request's place in the queue, then its slot; what its caller is charged through."""

_WATCH_S = 1.0


class Dispatcher:
    """`slots` requests at once, `each` of them a key's at the most; at most `most_waiting` wait, and more are
    refused. `unstuck`: how often the
    watchdog found requests that waited beside free slots."""

    def __init__(self, slots: int, most_waiting: int, *, each: int | None = None) -> None:
        self.slots = slots
        self.unstuck = 0
        self._held: set[Turn] = set()
        self._allowance = Allowance(slots, each=each)
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(most_waiting, _refuse, asyncio.Future.done)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self.slots - len(self._held)

    @asynccontextmanager
    async def slot(self, caller: Caller, prompt_tokens: int) -> AsyncIterator[Turn]:
        """Wait for a slot and hold it. `ApiError` when the queue has no place (left)."""
        turn = self._queue.push(
            asyncio.get_running_loop().create_future(), caller.key, caller.priority, prompt_tokens
        )
        try:
            self._fill()
            await turn.item
            yield turn
        finally:
            self._queue.cancel(turn)
            if turn in self._held:
                self._held.remove(turn)
                self._allowance.give_back(turn.flow.caller)
            self._fill()

    def charge(self, turn: Turn, tokens: int) -> None:
        """Count tokens that a request was given."""
        self._queue.charge(turn, tokens)

    def ended(self, turn: Turn, *, abandoned: bool) -> None:
        """What became of the answer in a slot: its client took all of it, or left before."""
        (self._allowance.abandoned if abandoned else self._allowance.taken)(turn.flow.caller)

    async def watch(self, every: float = _WATCH_S) -> None:
        """Look for requests that wait beside free slots: there is no reason for that, so it is logged and
        they are let in. Runs until it is cancelled."""
        seen = False
        while True:
            await asyncio.sleep(every)
            stuck = self.free > 0 and self._queue.has(self._allowance.is_owed)
            if stuck and seen:
                self.unstuck += 1
                log.error("%d requests waited beside %d free slots: let in", self.waiting, self.free)
                self._fill()
            seen = stuck

    def _fill(self) -> None:
        while self.free > 0 and (turn := self._queue.pop(self._allowance.allows)) is not None:
            self._held.add(turn)
            self._allowance.take(turn.flow.caller)
            turn.item.set_result(None)


def _refuse(waiting: "asyncio.Future[None]", error: ApiError) -> None:
    if not waiting.done():
        waiting.set_exception(error)
