"""Worker processes: started, asked, stopped in between, and ended whatever happens."""

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Any

Values = dict[str, Any]

_PATIENCE = 900.0  # seconds for one answer


class WorkerError(Exception):
    """A worker that failed to start or to answer; the message says why."""


class Worker:
    """One process that speaks `protocol.py`. While it is not asked it is stopped: idle threads may spin."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self._log = log
        self._start = time.perf_counter()
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        self._pending = b""
        self.ready: Values = {}
        self.ready = self._answer()["ready"]
        self._signal(signal.SIGSTOP)

    def can(self, request: str) -> bool:
        """Whether it knows this kind of request."""
        return request in self.ready["can"]

    def ask(self, request: Values) -> Values:
        """The answer to one request."""
        self._signal(signal.SIGCONT)
        try:
            self._stdin().write(json.dumps(request).encode() + b"\n")
            self._stdin().flush()
            return self._answer()
        except BrokenPipeError as error:
            raise WorkerError(self._why("ended")) from error
        finally:
            self._signal(signal.SIGSTOP)

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.perf_counter() - self._start

    def close(self) -> None:
        """End it, stopped or not."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _answer(self) -> Values:
        answer: Values = json.loads(self._line())
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer

    def _line(self) -> bytes:
        """A line of its stdout; read without buffering, so that `select` sees all that is there."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + _PATIENCE
        while b"\n" not in self._pending:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise self._failed(f"gave no answer in {_PATIENCE:.0f} s")
            data = os.read(descriptor, 65536)
            if not data:
                raise self._failed("ended")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _failed(self, what: str) -> WorkerError:
        self._process.kill()
        return WorkerError(self._why(what))

    def _why(self, what: str) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no message"
        return f"{self.name} {what}: {last} (all of it in {self._log})"

    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
