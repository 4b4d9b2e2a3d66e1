"""What stands before every request that has a body: with which key it comes, and how much it brings.

Contract: nothing of a body is read before its key and its length are known to be right, and no more is read
than there is room for. Bodies share a bounded room until their requests have ended; a caller may hold as much
of it as is left free, so that nobody can fill it for everybody.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sampan.server.ask import Caller
from sampan.server.coding import SMALL, Unpacking, coding_of
from sampan.server.errors import ApiError, bad_request

Refuse = Callable[[ApiError, str], Response]
"""The answer that an error is at a path."""

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})
_UNKNOWN = 1 << 20  # of a body whose length is not told
_ROOM = 128 << 20
_PLACES = 256  # connections that may wait for room with a large body: each holds what it has sent already
_MANY_PLACES = 8192
_GROWTH = 16  # bytes that a byte of JSON may become


class Guard:
    """Refuses a wrong key (401) and bodies over `most` bytes (413) before they are read, and those that are
    not there after `seconds` (408). `caller`: who asks, by the request's headers."""

    def __init__(
        self, app: ASGIApp, caller: Callable[[Headers], Caller], refuse: Refuse, most: int, seconds: float
    ) -> None:
        self._app = app
        self._caller = caller
        self._refuse = refuse
        self._most = most
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._small, self._large = Room(_ROOM, _MANY_PLACES), Room(_ROOM, _PLACES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        if scope["type"] != "http" or scope["method"] in _BODILESS:
            await self._app(scope, receive, send)
            return
        async with self._turn:  # of thousands that come at once, each lets others pass before it begins
            await asyncio.sleep(0)
        headers = Headers(scope=scope)
        try:
            caller = self._caller(headers)
            length, coding = self._length(headers), coding_of(headers)
        except ApiError as error:
            await self._refuse(error, scope["path"])(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        async with AsyncExitStack() as held:

            async def hold(size: int) -> Callable[[int], None]:
                room = self._small if size <= SMALL else self._large
                shrink = await held.enter_async_context(room.share(caller.key, size * _GROWTH))
                return lambda left: shrink(left * _GROWTH)

            if coding is None:
                given = _Body(receive, length, self._seconds, hold).receive
            else:
                unpacking = Unpacking(coding, self._most, hold)
                packed = _Body(receive, length, self._seconds, unpacking.hold)
                given = partial(unpacking.receive, packed.receive)
            await self._app(scope, _telling(given), send)

    def _length(self, headers: Headers) -> int:
        """Bytes of the body, or what is taken of one that does not say."""
        told = headers.get("content-length")
        if told is None:
            return min(self._most, _UNKNOWN) if "transfer-encoding" in headers else 0
        if not told.isascii() or not told.isdigit():
            raise bad_request("content-length is no number")
        if len(told) > 15 or int(told) > self._most:
            raise ApiError(413, f"the body is larger than {self._most} bytes")
        return int(told)


def _telling(receive: Receive) -> Receive:
    """The same, whose errors pass through the framework's reading of a body."""

    async def told() -> Message:
        try:
            return await receive()
        except ApiError as error:
            raise HTTPException(error.status, error.message) from error

    return told


class Room:
    """`size` bytes that bodies share; `places`: how many may wait for some of it."""

    def __init__(self, size: int, places: int) -> None:
        self._size = size
        self._free = size
        self._places = places
        self._held: Counter[str | None] = Counter()
        self._waiting: dict[asyncio.Future[None], tuple[str | None, int]] = {}

    @asynccontextmanager
    async def share(self, key: str | None, wanted: int) -> AsyncIterator[Callable[[int], None]]:
        """Hold so many bytes, or a quarter of all if that is less. A 503 where too many wait already.

        What it gives lets go of all but so many.
        """
        amount = min(wanted, self._size // 4)
        if self._waiting or not self._fits(key, amount):
            await self._wait(key, amount)
        else:
            self._take(key, amount)

        def shrink(left: int) -> None:
            nonlocal amount
            less = max(0, amount - left)
            amount -= less
            self._give(key, less)

        try:
            yield shrink
        finally:
            self._give(key, amount)

    async def _wait(self, key: str | None, amount: int) -> None:
        of_key = 0 if key is None else sum(other == key for other, _ in self._waiting.values())
        if of_key >= self._places - len(self._waiting):
            raise ApiError(
                503,
                "the server is overloaded: too many bodies wait to be read",
                kind="server_error",
                code="overloaded",
                retry_after=5,
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = key, amount
        self._admit()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # cancelled in the moment in which it was let in
                self._free += amount
                self._held[key] -= amount
            self._waiting.pop(turn, None)
            self._admit()
            raise

    def _admit(self) -> None:
        for turn, (key, amount) in list(self._waiting.items()):
            if not turn.done() and self._fits(key, amount):
                del self._waiting[turn]
                self._take(key, amount)
                turn.set_result(None)

    def _fits(self, key: str | None, amount: int) -> bool:
        """Without keys all callers are one, and none is others' burden."""
        return amount + (0 if key is None else self._held[key]) <= self._free

    def _take(self, key: str | None, amount: int) -> None:
        self._free -= amount
        self._held[key] += amount

    def _give(self, key: str | None, amount: int) -> None:
        self._free += amount
        self._held[key] -= amount
        if not self._held[key]:
            del self._held[key]
        self._admit()


class _Body:
    """A request's body on its way in. `hold` waits until there is room for so many bytes of it; the first few
    are taken without, so that who brings little, slowly, holds nothing."""

    def __init__(
        self, receive: Receive, most: int, seconds: float, hold: Callable[[int], Awaitable[object]]
    ) -> None:
        self._receive = receive
        self._most = most
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._hold: Callable[[int], Awaitable[object]] | None = hold
        self._taken = 0
        self._whole = False

    async def receive(self) -> Message:
        """The next message; after the body, only the client's hanging up."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time") from None
        if message["type"] == "http.request":
            await self._take(len(message.get("body", b"")), not message.get("more_body", False))
        return message

    async def _take(self, count: int, whole: bool) -> None:
        self._taken += count
        self._whole = whole
        if self._taken > self._most:
            raise HTTPException(
                413, f"the body is larger than {self._most} bytes: if it may be, tell its content-length"
            )
        if self._hold is not None and (whole or self._taken > SMALL):
            hold, self._hold = self._hold, None
            await hold(self._taken if whole else self._most)
