"""The text processes as the service sees them: asked for a job, ended when it takes too long, started again.

There are two lanes: what is short never waits behind what is long, and what is long runs at a low priority.
In each, jobs wait fairly between callers.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from typing import Any

from sampan.server.ask import Caller
from sampan.server.body import LONG
from sampan.server.dispatch import Dispatcher
from sampan.server.errors import ApiError
from sampan.server.process import wire
from sampan.server.process.text_process import too_costly
from sampan.server.settings import ServeSettings

log = logging.getLogger("sampan.text")

_NICE = 15
_AHEAD = 16
_LEFT_S = 1.0
_WALL_S = 60.0  # processor time is the kernel's to watch: this is for a process that is stopped
_BYTES_A_TOKEN = 256  # of a long text, for fairness between callers


class TextWorkers:
    """Does jobs (`text_jobs.TextJobs`) in processes that come from `door` (`text_process.fork`)."""

    def __init__(self, settings: ServeSettings, door: socket.socket) -> None:
        self._nursery = Nursery(settings, door)
        self._short = Lane(self._nursery, 0, _AHEAD, settings.max_queue)
        self._long = Lane(self._nursery, _NICE, 1, settings.max_queue)

    async def run(self, caller: Caller, size: int, job: str, *arguments: Any) -> Any:
        """The result of a job on a text of so many bytes. Raises its error, or a 400 when it was ended."""
        lane = self._long if size > LONG else self._short
        return await lane.run(caller, 1 + size // _BYTES_A_TOKEN, job, arguments)

    def close(self) -> None:
        """End the processes."""
        for lane in (self._short, self._long):
            lane.end()
        self._nursery.close()


class Nursery:
    """Where workers come from; started again, more slowly, when it died."""

    def __init__(self, settings: ServeSettings, door: socket.socket) -> None:
        self._settings = settings
        self._door = door

    async def worker(self, nice: int) -> "Worker":
        """A new one."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._door, [bytes([nice])], [theirs.fileno()])
            except OSError:
                log.error("the process that text workers come from ended: it is started again")
                await self._start()
                socket.send_fds(self._door, [bytes([nice])], [theirs.fileno()])
        reader, writer = await asyncio.open_connection(sock=ours)
        pid = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WALL_S):
                pid = await wire.areceive(reader)
        if pid is None:
            writer.close()
            raise ApiError(503, "no process could be started to read this text", kind="server_error")
        return Worker(reader, writer, pid)

    async def _start(self) -> None:
        self._door.close()
        self._door, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            module = "sampan.server.process.text_process"
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, str(number), pass_fds=(number,)
            )
        self._door.sendall(wire.pack((self._settings.engine, self._settings.model)))

    def close(self) -> None:
        """End it."""
        self._door.close()


AGAIN = object()
"""What came of a job whose process ended over an earlier one; None where it was this one."""


class Worker:
    """One process. Jobs are sent ahead, so that it need not wait between two of them; it does all in turn."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int) -> None:
        self._reader = reader
        self._writer = writer
        self._pid = pid
        # A process id may be another's by the time it is used; a descriptor never is.
        self._handle = os.pidfd_open(pid) if sys.platform == "linux" else None
        self._jobs: deque[asyncio.Future[Any]] = deque()
        self._late: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._run())
        self.ended = False

    async def do(self, frame: bytes) -> Any:
        """What came of a job."""
        answer = asyncio.get_running_loop().create_future()
        self._jobs.append(answer)
        self._writer.write(frame)
        if len(self._jobs) == 1:
            self._watch_first()
        try:
            return await answer
        except asyncio.CancelledError:
            if self._jobs and self._jobs[0] is answer:
                self._watch_first()
            raise

    async def _run(self) -> None:
        try:
            while (answer := await wire.areceive(self._reader)) is not None:
                _tell(self._jobs.popleft(), answer)
                self._watch_first()
                await asyncio.sleep(0)  # of many that end together, each lets others pass before it goes on
        finally:
            self.end()

    def _watch_first(self) -> None:
        """Give the first job its time: a moment more where nobody waits for it any longer."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if self._jobs:
            seconds = _LEFT_S if self._jobs[0].cancelled() else _WALL_S
            self._late = asyncio.get_running_loop().call_later(seconds, self.end)

    def end(self) -> None:
        """Whatever it does: what it was at has no answer, what waited behind is done again by another."""
        if self.ended:
            return
        self.ended = True
        self._task.cancel()
        if self._late is not None:
            self._late.cancel()
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            if self._handle is None:
                os.kill(self._pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        if self._handle is not None:
            os.close(self._handle)
        for place, job in enumerate(self._jobs):
            _tell(job, AGAIN if place else None)
        self._jobs.clear()


def _tell(job: "asyncio.Future[Any]", answer: Any) -> None:
    if not job.done():
        job.set_result(answer)


class Lane:
    """One worker and those who wait for it. `ahead`: jobs that it is given at once."""

    def __init__(self, nursery: Nursery, nice: int, ahead: int, most_waiting: int) -> None:
        self._nursery = nursery
        self._nice = nice
        self._turns = Dispatcher(ahead, most_waiting)
        self._worker: Worker | None = None
        self._door = asyncio.Lock()

    async def run(self, caller: Caller, tokens: int, job: str, arguments: tuple[Any, ...]) -> Any:
        """The result of a job."""
        frame = wire.pack((job, arguments))
        async with self._turns.slot(caller, tokens):
            answer: Any = AGAIN
            while answer is AGAIN:
                answer = await (await self._ready()).do(frame)
        if answer is None:
            raise too_costly()
        result, error = answer
        if error is not None:
            raise error
        return result

    async def _ready(self) -> Worker:
        async with self._door:
            if self._worker is None or self._worker.ended:
                self._worker = await self._nursery.worker(self._nice)
            return self._worker

    def end(self) -> None:
        """End the worker; the next job gets a new one."""
        if self._worker is not None:
            self._worker.end()
