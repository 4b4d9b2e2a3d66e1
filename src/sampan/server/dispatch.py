"""Who goes to the engine next: it gets as many requests as it runs side by side, the rest wait fairly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sampan.server.ask import Caller
from sampan.server.errors import ApiError
from sampan.server.fair import FairQueue, Ticket

Turn = Ticket[asyncio.Future[None]]
"""A request's place in the queue, then its slot; what its caller is charged through."""


class Dispatcher:
    """`slots` requests at once; at most `most_waiting` wait, and more are refused."""

    def __init__(self, slots: int, most_waiting: int) -> None:
        self._free = slots
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(most_waiting, _refuse)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @asynccontextmanager
    async def slot(self, caller: Caller, prompt_tokens: int) -> AsyncIterator[Turn]:
        """Wait for a slot and hold it. `ApiError` when the queue has no place (left)."""
        turn = self._queue.push(
            asyncio.get_running_loop().create_future(), caller.key, caller.priority, prompt_tokens
        )
        self._fill()
        try:
            await turn.item
            yield turn
        finally:
            if not self._queue.cancel(turn) and turn.item.done() and not turn.item.exception():
                self._free += 1
                self._fill()

    def charge(self, turn: Turn, tokens: int) -> None:
        """Count tokens that a request was given."""
        self._queue.charge(turn, tokens)

    def _fill(self) -> None:
        while self._free and (turn := self._queue.pop()) is not None:
            self._free -= 1
            turn.item.set_result(None)


def _refuse(waiting: "asyncio.Future[None]", error: ApiError) -> None:
    waiting.set_exception(error)
