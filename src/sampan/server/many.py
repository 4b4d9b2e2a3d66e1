"""Requests of many small parts: each part is an ask, so many of them side by side."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import TypeVar

from sampan.core.errors import RequestError
from sampan.server.ask import Ask, Caller, Ids, Part, Usage
from sampan.server.errors import bad_request
from sampan.server.service import Service

T = TypeVar("T")

MOST = 2048
"""Parts of a request, as OpenAI has it."""
_TOGETHER = 64


async def replies(
    service: Service, asks: Sequence[Ask], caller: Caller, reply: Callable[[int, Part], T]
) -> tuple[list[T], int]:
    """What `reply` makes of the last part of each ask, in their order, and the tokens of all prompts."""
    found: dict[int, T] = {}
    for first in range(0, len(asks), _TOGETHER):
        some = asks[first : first + _TOGETHER]
        parts = service.answer_all(some, caller, Usage(sum(len(ask.ids) for ask in some)))
        async with aclosing(parts):  # type: ignore[type-var]
            async for part in parts:
                if part.vector or part.scores:
                    found[first + part.index] = reply(first + part.index, part)
                    await asyncio.sleep(0)  # a step gives many at once: others have their turns between
    return [found[place] for place in range(len(asks))], sum(len(ask.ids) for ask in asks)


@contextmanager
def refused(param: str, code: str | None = None) -> Iterator[None]:
    """A `RequestError` is a 400 for this field."""
    try:
        yield
    except RequestError as error:
        raise bad_request(str(error), param=param, code=code) from error


def token_ids(given: Sequence[int], service: Service, field: str) -> Ids:
    """Token ids that a client sent; a 400 for one that is outside of the vocabulary."""
    most = service.text.vocabulary
    for wrong in (min(given, default=0), max(given, default=0)):
        if not 0 <= wrong < most:
            raise bad_request(f"{field} has the token {str(wrong)[:20]}: ids are below {most}", param=field)
    return Ids("i", given)
