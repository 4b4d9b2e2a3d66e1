"""Responses kept for later requests: in memory, so many at most. What goes first is of the key that holds
most, and there what nobody asked for longest."""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sampan.server.ask import Caller

_MOST = 10_000
_MOST_BYTES = 64 << 20
_NAME = 32  # characters that a response's id and those of its items have in common
_LARGEST = 4  # so many of the largest fill the store


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


@dataclass
class _Shelf:
    """The responses of one key, with their sizes; the one that was asked for last stands last."""

    rows: OrderedDict[str, tuple[int, Stored]] = field(default_factory=OrderedDict)
    bytes: int = 0

    def take(self, name: str) -> None:
        self.bytes -= self.rows.pop(name)[0]


class ResponseStore:
    """Responses by id, each for the eyes of whoever asked for it. Bounded in number and in bytes of JSON.

    What is over a bound goes from the key that holds most of it: one that holds no more than its share among
    the keys keeps all it has, whatever others store.
    """

    def __init__(self, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._shelves: dict[str | None, _Shelf] = {}

    def put(self, caller: Caller, stored: Stored) -> None:
        """Keep a response, if need be instead of older ones; one that is too large is not kept."""
        name = stored.document["id"]
        self.remove(caller, name)
        size = sum(len(json.dumps(part)) for part in (stored.document, stored.items, stored.before))
        if size > self._most_bytes // _LARGEST:
            return
        shelf = self._shelves.setdefault(caller.key, _Shelf())
        shelf.rows[name] = size, stored
        shelf.bytes += size
        while sum(each.bytes for each in self._shelves.values()) > self._most_bytes:
            self._drop(caller, lambda shelf: shelf.bytes)
        while sum(len(each.rows) for each in self._shelves.values()) > self._most:
            self._drop(caller, lambda shelf: len(shelf.rows))

    def get(self, caller: Caller, name: str) -> Stored | None:
        """The response, if it is here and the caller's own."""
        shelf = self._shelves.get(caller.key)
        if shelf is None or name not in shelf.rows:
            return None
        shelf.rows.move_to_end(name)
        return shelf.rows[name][1]

    def item(self, caller: Caller, name: str) -> Mapping[str, Any] | None:
        """An item of the output of the caller's responses: its id begins with its response's."""
        stored = self.get(caller, f"resp_{name.partition('_')[2][:_NAME]}")
        rows = () if stored is None else stored.document["output"]
        return next((row for row in rows if row["id"] == name), None)

    def remove(self, caller: Caller, name: str) -> bool:
        """Forget it; whether there was such a response of this caller."""
        if self.get(caller, name) is None:
            return False
        self._take(caller.key, name)
        return True

    def _drop(self, caller: Caller, held: Callable[[_Shelf], int]) -> None:
        """The oldest of whoever holds most; among equals, of who brought something now."""
        key = max(self._shelves, key=lambda key: (held(self._shelves[key]), key == caller.key))
        self._take(key, next(iter(self._shelves[key].rows)))

    def _take(self, key: str | None, name: str) -> None:
        shelf = self._shelves[key]
        shelf.take(name)
        if not shelf.rows:
            del self._shelves[key]
