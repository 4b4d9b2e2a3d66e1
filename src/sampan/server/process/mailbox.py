"""Where what happens to a request's answers is collected for the task that waits for them."""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass

from sampan.engine.sequence import Event
from sampan.server.errors import ApiError

News = tuple[int, Event | ApiError]
"""The place of an answer among those of its ask, and what happened to it."""


class Mailbox:
    """What happened to the answers of one ask, in order. One task reads it.

    `tokens`: that each answer was given. `taken`: answers that are whole. `left`: their client has gone.
    """

    def __init__(self) -> None:
        self.tokens: Counter[int] = Counter()
        self.taken: set[int] = set()
        self.left = False
        self._news: deque[News] = deque()
        self._arrived = asyncio.Event()

    def put(self, place: int, news: Event | ApiError) -> None:
        """From the event loop's thread."""
        self.tokens[place] += 1
        self._news.append((place, news))
        self._arrived.set()

    async def take(self) -> list[News]:
        """Everything that has come, and something at least."""
        await self._arrived.wait()
        self._arrived.clear()
        news = list(self._news)
        self._news.clear()
        return news


@dataclass(frozen=True)
class Waiting:
    """Where the events of one request go."""

    mailbox: Mailbox
    place: int
