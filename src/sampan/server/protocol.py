"""uvicorn's HTTP protocol with what it lacks: a time limit for headers, a connection to stream through."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_S = 10.0


class Connection:
    """A client's connection, for a response that has begun in HTTP/1.1's chunks.

    What is written here does not go through ASGI: no middleware sees it.
    """

    def __init__(self, transport: Any, flow: Any) -> None:
        self._transport = transport
        self._flow = flow
        self.drain = flow.drain
        self.abort = transport.abort

    @property
    def full(self) -> bool:
        """The client has much to read yet: wait for `drain`."""
        return bool(self._flow.write_paused)

    def write(self, data: bytes) -> None:
        """One chunk; nothing once the connection is closing."""
        if data and not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))


class Protocol(HttpToolsProtocol):
    """Drops a connection whose request's headers are not complete in time (slow loris)."""

    header_s = HEADER_S
    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"sampan": {"connection": Connection(self.transport, self.flow)}}
        if self._headers_due is None:
            self._await_headers()

    def on_headers_complete(self) -> None:
        self._headers_came()
        super().on_headers_complete()

    def _await_headers(self) -> None:
        self._headers_due = self.loop.call_later(self.header_s, self._too_slow)

    def _headers_came(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _too_slow(self) -> None:
        self._headers_due = None
        self.transport.abort()
