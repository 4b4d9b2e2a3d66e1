"""Responses kept for later requests: in memory, so many at most; what nobody asked for longest goes first."""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.server.ask import Caller

_MOST = 10_000
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Stored:
    """A response: its `document`, the `items` it was asked with, and those of the conversation `before`."""

    document: Mapping[str, Any]
    items: Sequence[Mapping[str, Any]]
    before: Sequence[Mapping[str, Any]] = ()

    @property
    def conversation(self) -> list[Mapping[str, Any]]:
        """Everything that was said, this answer included."""
        return [*self.before, *self.items, *self.document["output"]]


class ResponseStore:
    """Responses by id, each for the eyes of whoever asked for it. Bounded in number and in bytes of JSON."""

    def __init__(self, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._rows: OrderedDict[str, tuple[str | None, int, Stored]] = OrderedDict()
        self._bytes = 0

    def put(self, caller: Caller, stored: Stored) -> None:
        """Keep a response, if need be instead of older ones."""
        size = sum(len(json.dumps(part)) for part in (stored.document, stored.items, stored.before))
        self._rows[stored.document["id"]] = caller.key, size, stored
        self._bytes += size
        while len(self._rows) > self._most or self._bytes > self._most_bytes:
            _, (_, freed, _) = self._rows.popitem(last=False)
            self._bytes -= freed

    def get(self, caller: Caller, name: str) -> Stored | None:
        """The response, if it is here and the caller's own."""
        row = self._rows.get(name)
        if row is None or row[0] != caller.key:
            return None
        self._rows.move_to_end(name)
        return row[2]

    def remove(self, caller: Caller, name: str) -> bool:
        """Forget it; whether there was such a response of this caller."""
        if self.get(caller, name) is None:
            return False
        self._bytes -= self._rows.pop(name)[1]
        return True
