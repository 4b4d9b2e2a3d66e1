"""httptools' parser for a server that changes to no other protocol.

A client may ask for another one beside its request (`Upgrade: h2c`); a server that stays with HTTP/1.1
answers as if it had not (RFC 9110, 7.8). httptools takes no body after such a head. Here the head is read
again without that one header, and the body as any other.
"""

from typing import Any

import httptools

_ASKS = b"upgrade"


class Parser:
    """What `httptools.HttpRequestParser` is to `protocol`; the head of CONNECT stays one without a body."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self.on_message_begin, self.on_url = protocol.on_message_begin, protocol.on_url
        self.on_header, self.on_body = protocol.on_header, protocol.on_body
        self._parser = parser = httptools.HttpRequestParser(self)
        # A client that has asked for `close` may have sent more: what it asked first is answered.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.get_method, self.get_http_version = parser.get_method, parser.get_http_version
        self.should_keep_alive = parser.should_keep_alive

    def feed_data(self, data: bytes) -> None:
        """The next bytes of a connection; `HttpParserError` for what is no HTTP."""
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if not self._asks_beside():
                    return
                data = self._head() + data[upgrade.args[0] :]

    def close(self) -> None:
        """Let go of what holds this in turn: nothing is left for the garbage collector."""
        self.__dict__.clear()

    def should_upgrade(self) -> bool:
        """Never."""
        return False

    def on_headers_complete(self) -> None:
        """Of a head that is whole, and will not be read again."""
        if not self._asks_beside():
            self._protocol.on_headers_complete()

    def on_message_complete(self) -> None:
        """The same of its body."""
        if not self._asks_beside():
            self._protocol.on_message_complete()

    def _asks_beside(self) -> bool:
        return self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT"

    def _head(self) -> bytes:
        """The head that was read, without what asks for another protocol."""
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._protocol.url, version)]
        lines += [b"%b: %b" % field for field in self._protocol.headers if field[0] != _ASKS]
        return b"\r\n".join([*lines, b"", b""])
