"""Bodies that a client has packed: `Content-Encoding: gzip` or `deflate` (RFC 9110, 8.4)."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from sampan.server.errors import ApiError, bad_request

TAKEN = "gzip, deflate"
SMALL = 16 << 10
"""Bytes up to which a body is unpacked at once, before there is room for it."""
_GZIP, _ZLIB, _BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_MOST_GROWTH = 1032  # of deflate: 258 bytes in two bits
_MOST_MEMBERS = 16  # of gzip, one after another: each costs a copy of all that follows

Hold = Callable[[int], Awaitable[Callable[[int], None]]]
"""Waits for room for so many bytes; what it gives lets go of all but so many."""


def coding_of(headers: Headers) -> str | None:
    """How the body is packed; a 415 for a way that is not taken, or several."""
    given = [name.strip().lower() for name in ",".join(headers.getlist("content-encoding")).split(",")]
    found = [name.removeprefix("x-") for name in given if name not in ("", "identity")]
    if not found:
        return None
    if found not in (["gzip"], ["deflate"]):
        raise ApiError(415, f"content-encoding is to be one of {TAKEN}, or identity", code="coding_not_taken")
    return found[0]


def unpacked(body: bytes, coding: str, most: int) -> bytes | None:
    """What was packed; None where that is more than `most` bytes, a 400 for what is not of this coding."""
    # Some send what deflate gives without the frame that the standard asks for: browsers take both.
    framed = len(body) > 1 and body[0] & 15 == zlib.DEFLATED and int.from_bytes(body[:2]) % 31 == 0
    form = _GZIP if coding == "gzip" else _ZLIB if framed else _BARE
    found, rest = b"", body
    members = _MOST_MEMBERS if coding == "gzip" else 1
    try:
        while rest:
            members -= 1
            if members < 0:
                raise zlib.error
            reader = zlib.decompressobj(form)
            found += reader.decompress(rest, most + 1 - len(found))
            if len(found) > most:
                return None
            if not reader.eof:
                raise zlib.error
            rest = reader.unused_data
    except zlib.error:
        raise bad_request(f"the body is not what its content-encoding says: {coding}") from None
    return found


class Unpacking:
    """A request's body as if it had not been packed. `most`: bytes that it may become."""

    def __init__(self, coding: str, most: int, hold: Hold) -> None:
        self._coding = coding
        self._most = most
        self._hold = hold
        self._shrink: Callable[[int], None] | None = None
        self._done = False

    async def hold(self, size: int) -> None:
        """Wait for room for what so many packed bytes may become, unless they are few."""
        if size > SMALL:
            self._shrink = await self._hold(min(self._most, _MOST_GROWTH * size))

    async def receive(self, source: Receive) -> Message:
        """The next message; the first one has the whole body."""
        packed, more = bytearray(), not self._done
        while more:
            message = await source()
            if message["type"] != "http.request":
                return message
            packed += message.get("body", b"")
            more = message.get("more_body", False)
        if self._done:
            return await source()
        self._done = True
        return {"type": "http.request", "body": await self._unpacked(bytes(packed)), "more_body": False}

    async def _unpacked(self, packed: bytes) -> bytes:
        if self._shrink is None:
            few = unpacked(packed, self._coding, min(SMALL, self._most))
            if few is not None:
                await self._hold(len(few))
                return few
            self._shrink = await self._hold(min(self._most, _MOST_GROWTH * len(packed)))
        # zlib lets go of the interpreter's lock meanwhile
        body = await asyncio.to_thread(unpacked, packed, self._coding, self._most)
        if body is None:
            raise ApiError(413, f"the body unpacks to more than {self._most} bytes")
        self._shrink(len(body))
        return body
