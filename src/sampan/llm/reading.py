"""What is read off prompts: the scores of their tokens, or the vectors that they become."""

from collections.abc import Callable, Sequence
from queue import SimpleQueue

from sampan.core.errors import RequestError
from sampan.core.types import TokenScore
from sampan.llm.driver import Driver, Generation, News, Request
from sampan.llm.streams import AsyncBox


class Read:
    """What was read off one prompt: its tokens' scores, or the vector that it became."""

    def __init__(self) -> None:
        self.scores: list[TokenScore] = []
        self.vector: tuple[float, ...] = ()


def read(
    driver: Driver, requests: Sequence[Request], advance: Callable[[int], None] | None = None
) -> list[Read]:
    """What there is to read off prompts, side by side. `advance`: is told how many more tokens are scored, or
    how many of a prompt that became a vector there were."""
    box: SimpleQueue[News] = SimpleQueue()
    found = _Reading(requests, box.put)
    if not requests:
        return []
    driver.submit(found.ticket)
    try:
        while found.open:
            count = found.take(box.get())
            if advance is not None:
                advance(count)
        return found.read
    finally:
        driver.withdraw(found.ticket)


async def aread(driver: Driver, requests: Sequence[Request]) -> list[Read]:
    """The same without blocking the event loop."""
    box = AsyncBox()
    found = _Reading(requests, box.put)
    if not requests:
        return []
    driver.submit(found.ticket)
    try:
        while found.open:
            found.take(await box.get())
        return found.read
    finally:
        driver.withdraw(found.ticket)


class _Reading:
    """What is read off one ticket's prompts."""

    def __init__(self, requests: Sequence[Request], deliver: Callable[[News], None]) -> None:
        self.ticket = Generation(requests, deliver)
        self.read = [Read() for _ in requests]
        self.open = len(requests)

    def take(self, news: News) -> int:
        """Take a step's; returns how many tokens they are of, or raises why there is nothing."""
        if isinstance(news, Exception):
            raise news
        count = 0
        for place, event in news:
            if event.error is not None:
                raise RequestError(event.error)
            own = self.read[place]
            own.scores += event.scores
            own.vector = event.vector or own.vector
            self.open -= event.finish_reason is not None
            count += len(self.ticket.requests[place].tokens) if event.vector else len(event.scores)
        return count
