"""uvicorn's HTTP protocol with two things it lacks: a time limit for headers, and a way to drop a client."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_S = 10.0


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
        self.scope["extensions"] = {"sampan": {"abort": self.transport.abort}}
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
