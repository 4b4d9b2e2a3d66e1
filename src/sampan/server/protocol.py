"""uvicorn's HTTP protocol with what it lacks: limits of headers, an end of stalled clients, answers on
half-closed connections, and a way to stream past ASGI."""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sampan.server.parser import Parser

HEADER_S = 10.0
WRITE_S = 60.0
HEADER_BYTES = 64 << 10
_LINGER_S = 10.0  # for the rest of a body that nobody reads any more
_LINGER_PAUSE_S = 0.01
_PROBE_S = (0.02, 0.1, 0.5, 1.0)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


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


class _Transport:
    """A connection's, which stays open while the rest of a request's body comes: where that finds nobody, an
    answer on its way is lost. The protocol closes it then.
    """

    def __init__(self, transport: Any, protocol: "Protocol") -> None:
        self._transport = transport
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if not self._protocol.linger():
            self._transport.close()


class Protocol(HttpToolsProtocol):
    """Drops connections that hold up others.

    Headers must be complete within `header_s` and have at most `HEADER_BYTES` (431); a client that takes
    nothing of what was written for `write_s` is dropped, whatever kind of answer it gets.
    A client that has closed its own direction is answered all the same; one that has gone is told from it by
    an interim response, which only a connection that is gone refuses.
    """

    header_s = HEADER_S
    write_s = WRITE_S
    _headers_due: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _lingering: asyncio.TimerHandle | None = None
    _unread = 0
    _in_headers = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = self._requests = Parser(self)  # type: ignore[assignment]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        for name in ("_headers_due", "_stalled", "_lingering"):
            self._stop(name)
        self._requests.close()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._unread += len(data)
        if self._lingering is not None:  # nobody wants it: it need not come fast
            self.flow.pause_reading()
            self.loop.call_later(_LINGER_PAUSE_S, self._read_on)
        super().data_received(data)
        # What one read brought is taken; a second one begins beyond the limit only where headers go on.
        if self._in_headers and self._unread > HEADER_BYTES:
            self._refuse_headers()

    def linger(self) -> bool:
        """Whether the connection stays open until the rest of a body has come, which nobody reads."""
        if self._lingering is not None or self.transport.is_closing():
            return False
        if self.cycle is not None and self.cycle.more_body:
            self._lingering = self.loop.call_later(_LINGER_S, self.transport.abort)
            return True
        return False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"sampan": {"connection": Connection(self.transport, self.flow)}}
        self._in_headers = True
        if self._headers_due is None:
            self._await_headers()

    def on_headers_complete(self) -> None:
        self._stop("_headers_due")
        self._in_headers = False
        self._unread = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_headers = True
        super().on_message_complete()
        if self._lingering is not None:
            self.cycle.more_body = False
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body:
            self.linger()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._stop("_stalled")
        super().resume_writing()

    def eof_received(self) -> Any:
        """Keep the connection where an answer is due, as long as somebody is there to take it."""
        if self.cycle is None or self.cycle.response_complete:
            return None
        self._probe(0)
        return True

    def _probe(self, times: int) -> None:
        cycle = self.cycle
        if self.transport.is_closing() or cycle.response_complete:
            return
        if times == 0 and self.scope["http_version"] == "1.1" and not cycle.response_started:
            self.transport.write(_CONTINUE)
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        pause = _PROBE_S[min(times, len(_PROBE_S) - 1)]
        self.loop.call_later(pause, self._probe, times + 1)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _watch_writing(self, left: int) -> None:
        self._stop("_stalled")
        self._stalled = self.loop.call_later(self.write_s, self._look_at_writing, left)

    def _look_at_writing(self, before: int) -> None:
        """Drop a client that has taken nothing since."""
        left = self.transport.get_write_buffer_size()
        if left >= before:
            self.transport.abort()
        else:
            self._watch_writing(left)

    def _refuse_headers(self) -> None:
        message = f"the headers are larger than {HEADER_BYTES} bytes".encode()
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(message), message)
        )
        self.transport.close()

    def _await_headers(self) -> None:
        self._headers_due = self.loop.call_later(self.header_s, self._too_slow)

    def _too_slow(self) -> None:
        self._headers_due = None
        self.transport.abort()

    def _stop(self, name: str) -> None:
        handle = getattr(self, name)
        if handle is not None:
            handle.cancel()
            setattr(self, name, None)
