"""A channel as lines of JSON. Runs inside of the sandbox: the standard library alone."""

import json
import socket
from typing import Any

_TEXT = 300


class Lines:
    """One end of a channel."""

    def __init__(self, channel: socket.socket) -> None:
        self._file = channel.makefile("rwb")

    def read(self) -> Any:
        """None at the end."""
        line = self._file.readline()
        return json.loads(line) if line else None

    def write(self, message: dict[str, Any]) -> None:
        """At once."""
        self._file.write(json.dumps(message).encode() + b"\n")
        self._file.flush()


def raised(error: BaseException) -> dict[str, Any]:
    """What to say of it."""
    return {"raised": [type(error).__name__, shown(error)]}


def shown(error: BaseException) -> str:
    """Its text, whatever its own methods do."""
    try:
        return str(error)[:_TEXT]
    except BaseException:
        return ""
