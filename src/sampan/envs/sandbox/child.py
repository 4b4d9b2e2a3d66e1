"""One process of a sandbox, seen from outside: a line of JSON each way, within its limits."""

import json
import os
import select
import signal
import socket
import weakref
from time import monotonic
from typing import Any, Literal, Protocol, Self

from sampan.core.errors import EnvError
from sampan.envs.sandbox.walls import Limits

Status = Literal["passed", "failed", "timeout", "memory", "output", "crashed"]
_CHUNK = 1 << 16
_TAIL = 2000
_START_SECONDS = 60.0


class Keeper(Protocol):
    """Starts and ends the processes."""

    def start(self, descriptors: tuple[int, int]) -> int: ...

    def end(self, pid: int) -> tuple[int, float]: ...


class Stopped(Exception):
    """The process went over a limit, ended, or sent what is no answer."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Child:
    """Raises OSError where it does not start. Its wall time runs from the first message on."""

    def __init__(self, keeper: Keeper, limits: Limits) -> None:
        self._keeper, self._limits = keeper, limits
        self._channel, far = socket.socketpair()
        self._output, printed = os.pipe()
        self._heard: list[Any] = [self._channel, self._output]
        self._lines, self._printed, self._many = b"", b"", 0
        self._release = weakref.finalize(self, _closed, self._channel, self._output)
        try:
            with far:
                self._pid = keeper.start((far.fileno(), printed))
        except BaseException:
            self._release()
            raise
        finally:
            os.close(printed)
        self._deadline = monotonic() + _START_SECONDS
        try:
            if self._line() != {"ready": True}:
                raise ChildProcessError("a process of the sandbox was not confined")
        except Stopped as stopped:
            self.close()
            said = (self.output.strip().splitlines() or [stopped.reason])[-1]
            raise ChildProcessError(f"a process of the sandbox was not confined: {said}") from stopped
        self.renew()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def output(self) -> str:
        """The end of what it printed."""
        return self._printed[-_TAIL:].decode(errors="replace")

    @property
    def seconds(self) -> float:
        """Since its first message."""
        return monotonic() - self._deadline + self._limits.seconds

    def renew(self) -> None:
        """Its wall time starts now."""
        self._deadline = monotonic() + self._limits.seconds

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Its answer. Raises `Stopped`, behind which it is ended."""
        try:
            self._send(json.dumps(message).encode() + b"\n")
            return self._line()
        except Stopped:
            self.close()
            raise

    def close(self) -> tuple[int, float] | None:
        """End it, whatever it does; its status and the seconds it computed, None where it was ended
        before."""
        if not self._release.alive:
            return None
        try:
            return self._keeper.end(self._pid)
        except (OSError, ValueError):
            return None  # the keeper is gone, and everything with it
        finally:
            self._drain()
            self._release()

    def _send(self, data: bytes) -> None:
        try:
            self._channel.settimeout(max(self._deadline - monotonic(), 0.001))
            self._channel.sendall(data)
        except TimeoutError:
            raise self._late() from None
        except OSError:
            raise self._gone() from None

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._lines:
            left = self._deadline - monotonic()
            ready = select.select(self._heard, [], [], left)[0] if left > 0 else []
            if not ready:
                raise self._late()
            if self._output in ready:
                self._print(os.read(self._output, _CHUNK))
            if self._channel in ready:
                self._receive()
        line, _, self._lines = self._lines.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise Stopped("failed", "wrote to what is not its own: no message")
        return message

    def _receive(self) -> None:
        try:
            data = self._channel.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            raise self._gone()
        self._lines += data
        if len(self._lines) > self._limits.output + _TAIL:
            raise Stopped("output", f"gave a value of more than {self._limits.output} bytes")

    def _print(self, data: bytes) -> None:
        if not data:
            self._heard.remove(self._output)  # it has closed its output
        self._many += len(data)
        self._printed = (self._printed + data)[-_TAIL:]
        if self._many > self._limits.output:
            raise Stopped("output", f"printed more than {self._limits.output} bytes")

    def _drain(self) -> None:
        """What it printed last."""
        os.set_blocking(self._output, False)
        try:
            while data := os.read(self._output, _CHUNK):
                self._printed = (self._printed + data)[-_TAIL:]
        except BlockingIOError:
            pass

    def _late(self) -> Stopped:
        return Stopped("timeout", f"took longer than {self._limits.seconds} seconds")

    def _gone(self) -> Stopped:
        """It closed its channel, or has ended."""
        found = self.close()
        if found is None:
            raise EnvError("the sandbox ended while a program ran in it")
        code, (_, computed) = os.waitstatus_to_exitcode(found[0]), found
        if computed > self._limits.cpu - 0.1:
            return Stopped("timeout", f"computed for longer than {self._limits.cpu} seconds")
        if code >= 0:
            return Stopped("crashed", f"ended itself with exit code {code}")
        return Stopped("crashed", f"was ended by {signal.Signals(-code).name}")


def _closed(channel: socket.socket, output: int) -> None:
    channel.close()
    os.close(output)
