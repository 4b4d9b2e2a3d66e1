"""Grammars of requests, compiled by the engine's process before a request takes a slot.

One is compiled at a time, and who goes next is fair between callers by the time that theirs have taken: large
grammars of one caller delay another by one of them at most. At most so many are in use; those that nobody
uses are kept for a while, by number and by size.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sampan.core.types import Grammar
from sampan.server.ask import Caller
from sampan.server.dispatch import Dispatcher
from sampan.server.process.supervisor import Supervisor

_IN_USE = 64
_KEPT = 32
_KEPT_BYTES = 1 << 20  # of their sources
_MS_A_TOKEN = 10

Key = tuple[Grammar, bool]


@dataclass
class _Ready:
    """A compiled grammar: the supervisor's name for it, and how many use it."""

    name: int
    users: int = 0


class Grammars:
    """What is compiled, and what waits for it."""

    def __init__(self, supervisor: Supervisor, most_waiting: int) -> None:
        self._supervisor = supervisor
        self._places = Dispatcher(_IN_USE, most_waiting)
        self._compiler = Dispatcher(1, most_waiting)
        self._ready: OrderedDict[Key, _Ready] = OrderedDict()

    @asynccontextmanager
    async def ready(
        self, grammar: Grammar | None, thinking: bool, caller: Caller
    ) -> AsyncIterator[int | None]:
        """The supervisor's name of a compiled grammar, for as long as it is held; None for none.

        Raises `ApiError` for one that cannot be used.
        """
        if grammar is None:
            yield None
            return
        async with self._places.slot(caller, 1):
            found = self._find(grammar, thinking) or await self._compiled(grammar, thinking, caller)
            found.users += 1
            try:
                yield found.name
            finally:
                found.users -= 1
                self._trim()

    def _find(self, grammar: Grammar, thinking: bool) -> _Ready | None:
        found = self._ready.get((grammar, thinking))
        if found is None or found.name not in self._supervisor.grammars:
            return None
        self._ready.move_to_end((grammar, thinking))
        return found

    async def _compiled(self, grammar: Grammar, thinking: bool, caller: Caller) -> _Ready:
        async with self._compiler.slot(caller, 1) as turn:
            if (found := self._find(grammar, thinking)) is not None:
                return found
            started = time.monotonic()
            work = asyncio.ensure_future(self._supervisor.compile(grammar, thinking))
            try:
                name = await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait({work})  # the compiler is not free before
                if not work.cancelled() and work.exception() is None:
                    self._supervisor.forget(work.result())
                raise
            finally:
                self._compiler.charge(turn, round((time.monotonic() - started) * 1000) // _MS_A_TOKEN)
            found = self._ready[grammar, thinking] = _Ready(name)
            return found

    def _trim(self) -> None:
        size = sum(len(grammar.source) for grammar, _ in self._ready)
        for key, entry in list(self._ready.items()):
            if len(self._ready) <= _KEPT and size <= _KEPT_BYTES:
                return
            if not entry.users:
                del self._ready[key]
                size -= len(key[0].source)
                self._supervisor.forget(entry.name)
