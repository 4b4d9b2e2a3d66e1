"""The process that a sandbox is kept by: it forks one confined process for each program, ends it when told,
and is the only one that outlives a program. Runs inside of the sandbox: the standard library alone.

Over its standard input, a Unix socket, come JSON objects one at a time: {"start": true} with two descriptors
(the program's channel and its output) is answered with {"pid"}, {"end": pid} with {"status", "cpu"}. When the
socket closes, all end.
"""

import gc
import json
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from fcntl import F_DUPFD, fcntl
from importlib import import_module
from typing import Any

from sampan.envs.sandbox.confine import Confinement
from sampan.envs.sandbox.namespaces import enter

_CHANNEL = 3
_MESSAGE = 1 << 16


def main(argument: str) -> None:
    """`argument`: see `walls.py`."""
    config = json.loads(argument)
    if config["namespaces"]:
        enter(config["folder"], config["scratch"])
    module, name = config["role"].split(":")
    sys.path += config["path"]
    serve = getattr(import_module(module), name)()
    if not config["path"]:
        sys.path.remove(config["home"])  # the program finds Python's own modules alone
    control = socket.socket(fileno=0)
    confinement = Confinement(config)
    confinement.protect()
    gc.collect()
    gc.freeze()  # children share these pages
    control.sendall(json.dumps({"holds": confinement.holds}).encode())
    _keep(control, confinement, serve, config["folder"])


def _keep(
    control: socket.socket, confinement: Confinement, serve: Callable[[socket.socket], None], root: str
) -> None:
    alive: set[int] = set()
    clean = True
    try:
        while alive or clean:
            data, descriptors, _, _ = socket.recv_fds(control, _MESSAGE, 2)
            if not data:
                return
            request = json.loads(data)
            if "start" in request:
                answer = _start(control, descriptors, confinement, serve, root)
                alive.add(answer["pid"])
            else:
                answer = _end(request["end"])
                alive.discard(request["end"])
                clean = _cleared(f"{root}/{request['end']}") and clean
            control.sendall(json.dumps(answer).encode())
    finally:
        for pid in alive:
            _end(pid)


def _cleared(folder: str) -> bool:
    """False where what a program left behind cannot be removed: the keeper then ends as soon as nobody is
    left, and the file system in memory with it."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return True
    except (OSError, RecursionError):
        return False
    return True


def _start(
    control: socket.socket,
    descriptors: list[int],
    confinement: Confinement,
    serve: Callable[[socket.socket], None],
    root: str,
) -> dict[str, Any]:
    pid = os.fork()
    if not pid:
        try:
            _child(control, descriptors, confinement, serve, root)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)
    for descriptor in descriptors:
        os.close(descriptor)
    return {"pid": pid}


def _child(
    control: socket.socket,
    descriptors: list[int],
    confinement: Confinement,
    serve: Callable[[socket.socket], None],
    root: str,
) -> None:
    """The channel is descriptor 3, output goes to the other one, input is empty, nothing else is open."""
    os.setsid()
    control.detach()
    channel, output = (fcntl(descriptor, F_DUPFD, 10) for descriptor in descriptors)
    reading, writing = os.pipe()
    os.close(writing)
    for old, new in ((reading, 0), (output, 1), (output, 2), (channel, _CHANNEL)):
        os.dup2(old, new)
    folder = f"{root}/{os.getpid()}"
    os.mkdir(folder)  # noqa: PTH102
    confinement.take(folder)
    os.closerange(_CHANNEL + 1, 4096)
    gc.unfreeze()
    serve(socket.socket(fileno=_CHANNEL))
    os._exit(0)


def _end(pid: int) -> dict[str, Any]:
    for end in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            end(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return {"status": status, "cpu": usage.ru_utime + usage.ru_stime}
