"""Grammars of requests, compiled by the engine's process before a request takes a slot.

As many are compiled at once as that process does, one of a caller's at the most, and who goes next is fair
between callers by the time that theirs have taken: large grammars of one caller hold up nobody else. So many
are in use at the most; how many are kept for the next time, by their bytes, is the compiler's to say.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sampan.core.types import Grammar
from sampan.server.ask import Caller
from sampan.server.dispatch import Dispatcher
from sampan.server.process.supervisor import Supervisor
from sampan.server.process.wire import COMPILERS

_IN_USE = 64
_MS_A_TOKEN = 10


class Grammars:
    """What is compiled, and what waits for it."""

    def __init__(self, supervisor: Supervisor, most_waiting: int) -> None:
        self._supervisor = supervisor
        self._places = Dispatcher(_IN_USE, most_waiting)
        self._compilers = Dispatcher(COMPILERS, most_waiting, each=1)

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
            name = await self._supervisor.compile(grammar, thinking, at_once=True)
            if name is None:
                name = await self._compiled(grammar, thinking, caller)
            try:
                yield name
            finally:
                self._supervisor.forget(name)

    async def _compiled(self, grammar: Grammar, thinking: bool, caller: Caller) -> int:
        async with self._compilers.slot(caller, 1) as turn:
            started = time.monotonic()
            work = asyncio.ensure_future(self._supervisor.compile(grammar, thinking))
            try:
                name = await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait({work})  # the compiler is not free before
                if not work.cancelled() and work.exception() is None and (made := work.result()) is not None:
                    self._supervisor.forget(made)
                raise
            finally:
                self._compilers.charge(turn, round((time.monotonic() - started) * 1000) // _MS_A_TOKEN)
            assert name is not None
            return name
