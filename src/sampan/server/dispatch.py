"""Who goes to the engine next: it gets as many requests as it runs side by side, the rest wait fairly."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sampan.server.ask import Caller
from sampan.server.errors import ApiError


class Dispatcher:
    """`slots` requests at once; at most `most_waiting` wait."""

    def __init__(self, slots: int, most_waiting: int) -> None:
        self._free = slots
        self._most = most_waiting
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @asynccontextmanager
    async def slot(self, caller: Caller, cost: int) -> AsyncIterator[None]:
        """A slot to hold."""
        await self.acquire(caller, cost)
        try:
            yield
        finally:
            self.release()

    async def acquire(self, caller: Caller, cost: int) -> None:  # noqa: ARG002
        """Wait for a slot. A full queue is a 503."""
        if self._free and not self._queue:
            self._free -= 1
            return
        if len(self._queue) >= self._most:
            raise ApiError(503, "the queue is full", kind="server_error", code="queue_full", retry_after=1)
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._queue.remove(turn)
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back."""
        self._free += 1
        while self._free and self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                self._free -= 1
                turn.set_result(None)
