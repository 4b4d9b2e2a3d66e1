"""The engine process as the service sees it: started, watched, restarted, its events brought to who waits.

Whatever the engine does, the event loop here stays free. When the process dies, or is busy and makes no step
for `stall_s`, it is killed, everyone who waits is told, and a new one is started.
"""

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Literal

from sampan.core.errors import SampanError
from sampan.core.types import Grammar
from sampan.engine.sequence import Event
from sampan.server.errors import ApiError, bad_request
from sampan.server.process import wire
from sampan.server.process.changes import Changes
from sampan.server.process.mailbox import Mailbox, Waiting
from sampan.server.process.refusals import away, refusal, restarted, unusable
from sampan.server.settings import EngineSettings

log = logging.getLogger("sampan.engine")

_WATCH_S = 0.25
_LONGEST_PAUSE_S = 30.0


class Supervisor:
    """Keeps one engine process running.

    `ready`: what it said when it had loaded; None while there is none. `beat`: its last sign of life.
    `failure`: why there is none now. `restarts`: since the start. `last_token`: when this one last gave one,
    `heard`: when it last said anything, by the monotonic clock. `change_s`: what a change may take.
    `grammars`: ids of those that it has compiled.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        stall_s: float,
        change_s: float = 600.0,
        changes: Iterable[wire.Change] = (),
    ) -> None:
        self.settings = settings
        self.stall_s = stall_s
        self.change_s = change_s
        self.ready: wire.Ready | None = None
        self.beat: wire.Beat | None = None
        self.failure: str | None = None
        self.restarts = 0
        self.weights_version = 0
        self.last_token: float | None = None
        self._ids = count(1)
        self._waiting: dict[int, Waiting] = {}
        self._compiling: dict[int, asyncio.Future[wire.Compiled]] = {}
        self.grammars: set[int] = set()
        self.changes = Changes(changes)
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._loaded = False
        self._progress = 0.0
        self.heard = 0.0

    async def start(self) -> None:
        """Start the process and wait until it is ready; `SampanError` when the model cannot be loaded."""
        self._loop_task = asyncio.create_task(self._keep_running())
        while self.ready is None:
            await self._changed.wait()
            self._changed.clear()
            if self.failure is not None:
                await self.stop()
                raise SampanError(self.failure)

    async def stop(self) -> None:
        """End the process now."""
        task, self._loop_task = self._loop_task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @property
    def pid(self) -> int | None:
        """The engine process, None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> int:
        """Requests that the engine has."""
        return len(self._waiting)

    def submit(self, mailbox: Mailbox, place: int, request: wire.Submit) -> int:
        """Hand a request over; its id. `ApiError` while there is no engine that knows its grammar."""
        if self.ready is None or self._writer is None:
            raise self._away()
        if request.grammar is not None and request.grammar not in self.grammars:
            raise restarted()
        name = next(self._ids)
        self._waiting[name] = Waiting(mailbox, place)
        self._send(replace(request, id=name))
        return name

    async def change(self, kind: Literal["load", "unload", "update"], name: str, path: Path) -> int:
        """Change adapters or weights; the version of the weights then. What worked is done again after a
        restart. `ApiError` 400 for what does not work, 503 without an engine or after `change_s`."""
        if self.ready is None:
            raise self._away()
        change = wire.Change(next(self._ids), kind, name, path)
        done = self.changes.ask(change)
        self._send(change)
        try:
            async with asyncio.timeout(self.change_s):
                changed = await done
        except TimeoutError:
            raise ApiError(
                503,
                f"the change was not made within {self.change_s:g} s; it may still be, later",
                kind="server_error",
                code="change_timeout",
            ) from None
        if changed.error is not None:
            raise bad_request(changed.error)
        return changed.weights_version

    async def compile(self, grammar: Grammar, thinking: bool, *, at_once: bool = False) -> int | None:
        """Make a grammar ready; its id for `Submit` and `forget`. `at_once`: None where that would take time.

        `ApiError` 400 for what cannot be used, 503 where there is no engine, or no room for it now.
        """
        if self.ready is None:
            raise self._away()
        name = next(self._ids)
        self._compiling[name] = done = asyncio.get_running_loop().create_future()
        self._send(wire.Compile(name, grammar, thinking, at_once))
        compiled = await done
        if compiled.kind == "slow":
            return None
        if compiled.kind != "ready":
            raise unusable(compiled)
        self.grammars.add(name)
        return name

    def forget(self, name: int) -> None:
        """A grammar that nobody needs any more."""
        if name in self.grammars:
            self.grammars.remove(name)
            self._send(wire.Forget(name))

    def abort(self, name: int) -> None:
        """Forget a request; it is gone by the next step."""
        if self._waiting.pop(name, None) is not None:
            self._send(wire.Abort(name))

    def _send(self, message: object) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.pack(message))

    def _away(self) -> ApiError:
        return away(self.failure or "it is starting")

    async def _keep_running(self) -> None:
        pause = 0.0
        while True:
            self._loaded = False
            try:
                self.failure = await self._one_life()
            finally:
                self._end_of_life()
            log.error("the engine ended: %s", self.failure)
            self._changed.set()
            self.restarts += 1
            # What has loaded once will load again; what never does must not keep the machine busy.
            pause = 0.0 if self._loaded else min(_LONGEST_PAUSE_S, pause * 2 or 0.1)
            await asyncio.sleep(pause)

    async def _one_life(self) -> str:
        """Start a process and read from it until it ends; why it did."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "sampan.server.process.worker",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._send(wire.Start(self.settings, tuple(self.changes.made), forgiving=self.restarts > 0))
        self.heard = self._progress = time.monotonic()
        watch = asyncio.create_task(self._watch(self._process))
        said = None
        try:
            while (message := await wire.areceive(reader)) is not None:
                self.heard = time.monotonic()
                if isinstance(message, wire.Failed):
                    said = message.message
                else:
                    self._take(message)
            if said is None and watch.done():
                said = watch.result()
        finally:
            self.ready = None
            watch.cancel()
        code = await self._process.wait()
        return said or f"its process ended with code {code}"

    def _end_of_life(self) -> None:
        """Leave nothing of the process, and tell everyone who waits."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._writer is not None:
            self._writer.close()
        self.ready, self.beat, self._writer, self._process = None, None, None, None
        self.last_token = None
        lost, self._waiting = self._waiting, {}
        self.changes.give_up(self._away())
        self.grammars.clear()
        compiling, self._compiling = self._compiling, {}
        for done in compiling.values():
            if not done.done():
                done.set_exception(self._away())
        for waiting in lost.values():
            waiting.mailbox.put(waiting.place, restarted())

    async def _watch(self, process: asyncio.subprocess.Process) -> str:
        """Kill a process that makes no progress; why."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(_WATCH_S)
            now = time.monotonic()
            if now - before > _WATCH_S + 1:  # we were stopped ourselves: it had no chance to be heard
                self.heard = self._progress = now
            if self.ready is not None and now - min(self.heard, self._progress) > self.stall_s:
                process.kill()
                return f"it made no progress for {self.stall_s:g} seconds"

    def _take(self, message: object) -> None:
        if isinstance(message, wire.Step):
            self._progress = self.last_token = time.monotonic()
            for event in message.events:
                self._deliver(event)
        elif isinstance(message, wire.Beat):
            if self.beat is None or not message.busy or message.steps != self.beat.steps:
                self._progress = time.monotonic()
            self.beat = message
        elif isinstance(message, wire.Refused):
            waiting = self._waiting.pop(message.id, None)
            if waiting is not None:
                waiting.mailbox.put(waiting.place, refusal(message))
        elif isinstance(message, wire.Compiled):
            done = self._compiling.pop(message.id, None)
            if done is not None and not done.done():
                done.set_result(message)
            elif message.kind == "ready":  # whoever asked has gone
                self._send(wire.Forget(message.id))
        elif isinstance(message, wire.Changed):
            self.weights_version = message.weights_version
            self.changes.answered(message)
        elif isinstance(message, wire.Ready):
            self.ready, self.failure, self._loaded = message, None, True
            self.weights_version = message.weights_version
            for lost, why in message.lost:
                self.changes.lost(lost)
                log.error("%s of %s is lost: %s", lost.kind, lost.name or lost.path, why)
            self._progress = time.monotonic()
            self._changed.set()
            log.info("the engine is ready after %.2f s", message.load_seconds)

    def _deliver(self, event: Event) -> None:
        waiting = self._waiting.get(event.request)
        if waiting is None:
            return  # aborted meanwhile
        if event.finish_reason is not None:
            del self._waiting[event.request]
        waiting.mailbox.put(waiting.place, event)
