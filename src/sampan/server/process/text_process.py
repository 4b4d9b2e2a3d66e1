"""The processes that read clients' texts: tokenizing, rendering, parsing. Each does one job at a time.

Such work takes as long and as much as a client's text and a model's template make it, and holds the
interpreter's lock meanwhile. So it is done where it can be ended: the kernel ends a process whose job takes
more than its seconds of processor time or bytes of memory. Workers are forked from a process that has read
the model's text and does nothing else, so that a new one is there within milliseconds and shares its memory.
"""

import contextlib
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sampan.core.errors import SampanError
from sampan.core.memory import keep_for_good
from sampan.server.errors import ApiError, bad_request
from sampan.server.process import wire
from sampan.server.process.text_jobs import TextJobs
from sampan.server.settings import EngineSettings
from sampan.server.text import ModelText

CPU_SECONDS = 10
MEMORY = 1 << 30
"""Bytes that a job may take beyond what the process has before it."""


def fork(text: ModelText, *foreign: socket.socket) -> socket.socket:
    """Fork the process that workers come from; the socket through which they are asked for.

    Call it before any thread or event loop is there. `foreign`: sockets that the new process must not keep.
    """
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        for each in (ours, *foreign):
            each.close()
        _forever(lambda: breed(theirs, text))
    theirs.close()
    return ours


def breed(door: socket.socket, text: ModelText) -> None:
    """Fork a worker for each socket that comes through the door, with one byte: its niceness."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the service decides: its end is the end of the socket
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _named("sampan-text")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    jobs = TextJobs(text)
    keep_for_good()
    while True:
        said, descriptors, _, _ = socket.recv_fds(door, 1, 1)
        if not said:
            return
        with socket.socket(fileno=descriptors[0]) as connection:
            if os.fork() == 0:
                door.close()
                os.nice(said[0])
                _forever(partial(work, connection, jobs))


def work(connection: socket.socket, jobs: TextJobs) -> None:
    """Say the process's id, then do one job after another, until the service closes its end."""
    connection.sendall(wire.pack(os.getpid()))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + MEMORY, resource.RLIM_INFINITY))
    while (message := wire.receive(connection)) is not None:
        name, arguments = message
        _limit_time(CPU_SECONDS)
        answer = _answer(getattr(jobs, name), arguments)
        _limit_time(None)
        connection.sendall(answer)


def _answer(job: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """What came of a job, as a frame: its result, or the error that it ended with."""
    try:
        return wire.pack((job(*arguments), None))
    except SampanError as error:
        return wire.pack((None, error))
    except MemoryError:
        return wire.pack((None, too_costly()))
    except RecursionError:
        return wire.pack((None, bad_request("it is nested too deeply")))
    except Exception:
        return wire.pack((None, RuntimeError(f"a text process failed:\n{traceback.format_exc()}")))


def too_costly() -> ApiError:
    """The error of a job that went beyond its limits."""
    return ApiError(
        400,
        f"to read this takes more than {CPU_SECONDS} s of processor time or {MEMORY >> 20} MiB: shorten it",
        code="text_too_costly",
    )


def _limit_time(seconds: int | None) -> None:
    """Let the kernel end this process after so many more seconds of processor time."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = hard if seconds is None else int(time.process_time()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _data_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * resource.getpagesize()


def _named(name: str) -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _forever(task: Callable[[], None]) -> None:
    """A forked process's whole life: nothing of its parent's may run at its end."""
    code = 1
    try:
        task()
        code = 0
    except (OSError, EOFError, KeyboardInterrupt):
        code = 0  # the service is gone
    finally:
        os._exit(code)


def main() -> None:
    """Run as a process, in place of a forked one that died: the first frame says what to read."""
    door = socket.socket(fileno=int(sys.argv[1]))
    start = wire.receive(door)
    if start is None:
        return
    settings, name = start
    assert isinstance(settings, EngineSettings)
    breed(door, ModelText.read(settings.files, name))


if __name__ == "__main__":
    main()
