"""Programs that nobody trusts, each in a process of its own that can reach nothing."""

import json
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from sampan.core.errors import EnvError, UsageError, quoted
from sampan.envs.sandbox.child import Child
from sampan.envs.sandbox.walls import ENVIRONMENT, MODES, Limits, Mode, Role, command, possible

_LOG = logging.getLogger(__name__)
_START_SECONDS = 60.0
_MESSAGE = 1 << 16


class _Keeper:
    """The process that forks the others (`keeper.py`), seen from outside. Raises OSError or ValueError where
    it does not start."""

    def __init__(self, mode: Mode, limits: Limits, role: Role) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._folder = tempfile.mkdtemp(prefix="sampan-sandbox-")
        self._control, far = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with far:
                self._process = subprocess.Popen(
                    command(mode, limits, role, self._folder),
                    stdin=far.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,
                )
            self._control.settimeout(_START_SECONDS)
            self.holds: dict[str, bool] = self._answer()["holds"]
        except BaseException:
            self.close()
            raise

    def start(self, descriptors: Sequence[int]) -> int:
        """A process on this channel and this output; its number in there."""
        with self._lock:
            socket.send_fds(self._control, [b'{"start": true}'], descriptors)
            return int(self._answer()["pid"])

    def end(self, pid: int) -> tuple[int, float]:
        """Its status as `os.wait` gives it, and the seconds that it computed."""
        with self._lock:
            self._control.sendall(json.dumps({"end": pid}).encode())
            answer = self._answer()
        return answer["status"], answer["cpu"]

    def close(self) -> None:
        """End it, with all that it has started."""
        with suppress(OSError):
            if os.getpid() == self.owner:
                self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        process = self._process
        if process is None or os.getpid() != self.owner:
            return
        with process:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answer(self) -> Any:
        data = self._control.recv(_MESSAGE)
        if data:
            return json.loads(data)
        said = ""
        if self._process is not None and self._process.stderr is not None:
            said = self._process.stderr.read(_MESSAGE).decode(errors="replace")
        raise ChildProcessError((said.strip().splitlines() or ["it ended"])[-1])


class Sandbox:
    """`mode`: the strongest that works here unless one is named (see docs/envs.md). The process behind it
    starts at the first use, is kept for all, and is replaced when it dies. May be used by several threads,
    and travels to other processes as its options."""

    def __init__(
        self, limits: Limits | None = None, *, mode: Mode | None = None, role: Role | None = None
    ) -> None:
        if mode is not None and mode not in MODES:
            raise UsageError(f"mode is {quoted(mode)}: one of {', '.join(MODES)}")
        self.limits = limits or Limits()
        self._role, self._asked = role or Role(), mode
        self._lock = threading.Lock()
        self._keeper: _Keeper | None = None
        self._mode: Mode | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self.limits, self._asked, self._role)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def mode(self) -> Mode:
        """The one that it runs in."""
        self._kept()
        assert self._mode is not None
        return self._mode

    @property
    def lacks(self) -> tuple[str, ...]:
        """What is not kept from programs here: of "files", "network", "processes"."""
        return tuple(name for name, held in self._kept().holds.items() if not held)

    def child(self) -> Child:
        """A new process, which waits for its first message. Raises `EnvError`."""
        try:
            return Child(self._kept(), self.limits)
        except (OSError, ValueError):
            self.close()  # it died, or could not clear up behind a program: once more with a new one
        try:
            return Child(self._kept(), self.limits)
        except (OSError, ValueError) as error:
            raise EnvError(f"the sandbox ({self._mode}) starts no program: {error}") from error

    def close(self) -> None:
        """End all its processes."""
        with self._lock:
            keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()

    def _kept(self) -> _Keeper:
        with self._lock:
            if self._keeper is None or self._keeper.owner != os.getpid():
                self._keeper = self._started()
                weakref.finalize(self, self._keeper.close)
            return self._keeper

    def _started(self) -> _Keeper:
        wanted = [self._mode or self._asked] if self._mode or self._asked else MODES
        said = []
        for mode in wanted:
            assert mode is not None
            if not possible(mode):
                said.append(f"{mode}: not on this machine")
                continue
            try:
                keeper = _Keeper(mode, self.limits, self._role)
            except (OSError, ValueError) as error:
                said.append(f"{mode}: {error}")
                continue
            self._told(mode, keeper, said)
            return keeper
        raise EnvError(f"no sandbox for programs that nobody trusts: {'; '.join(said)}")

    def _told(self, mode: Mode, keeper: _Keeper, said: Sequence[str]) -> None:
        lacking = [name for name, held in keeper.holds.items() if not held]
        if self._mode is None and lacking:
            _LOG.warning(
                "programs run in the weaker sandbox %r, which does not keep them from: %s (%s)",
                mode, ", ".join(lacking), "; ".join(said) or "as asked",
            )  # fmt: skip
        self._mode = mode


def _remade(limits: Limits, mode: Mode | None, role: Role) -> Sandbox:
    return Sandbox(limits, mode=mode, role=role)
