"""Responses that follow the client: streams of server-sent events, and answers that end when it hangs up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sampan.server.errors import ApiError
from sampan.server.protocol import Connection

T = TypeVar("T")

_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class EventStream(Response):
    """Sends frames as they come. A client that goes away, or takes nothing for `write_s`, ends them.

    `frames` is closed in any case.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncIterator[bytes], *, write_s: float, headers: dict[str, str]) -> None:
        super().__init__(headers={**_HEADERS, **headers})
        del self.headers["content-length"]
        self._frames = frames
        self._write_s = write_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        connection = scope.get("extensions", {}).get("sampan", {}).get("connection")
        pump = asyncio.ensure_future(
            self._pump(send, connection if scope["http_version"] == "1.1" else None, lambda: drop())
        )
        gone = asyncio.ensure_future(_until_gone(receive))

        def drop() -> None:
            """The client takes nothing."""
            pump.cancel()
            if connection is not None:
                connection.abort()

        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            await _ended(pump)

    async def _pump(self, send: Send, connection: Connection | None, too_slow: Callable[[], object]) -> None:
        call_later = asyncio.get_running_loop().call_later

        async def timed(work: Awaitable[None]) -> None:
            late = call_later(self._write_s, too_slow)  # asyncio.timeout takes ten times as long
            try:
                await work
            finally:
                late.cancel()

        async with aclosing(self._frames) as frames:  # type: ignore[type-var]
            await timed(send({"type": "http.response.start", "status": 200, "headers": self.raw_headers}))
            async for frame in frames:
                if connection is None:
                    await timed(send({"type": "http.response.body", "body": frame, "more_body": True}))
                    continue
                connection.write(frame)
                if connection.full:
                    await timed(connection.drain())
            await timed(send({"type": "http.response.body", "body": b"", "more_body": False}))


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client has gone", code="client_closed_request")
        return task.result()
    finally:
        gone.cancel()
        await _ended(task)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(task: "asyncio.Future[Any]") -> None:
    """Cancel, and wait until what it holds is given back. Its own error, if any, is the caller's to see."""
    waiting: Awaitable[Any] = task
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
