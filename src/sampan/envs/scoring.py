"""Other people's checks of answers, asked in a process that can be ended (see `scorers.py`)."""

import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sampan.core.errors import EnvError, UsageError, quoted
from sampan.envs.sandbox.child import Child, Stopped
from sampan.envs.sandbox.sandbox import Sandbox
from sampan.envs.sandbox.walls import Limits, Role

_LIMITS = Limits(seconds=10, cpu=600, memory=4 << 30)
_ANSWERS = 200
_INSTALLED = ("site-packages", "dist-packages")


class Scorer:
    """`checks`: a function of `scorers.py`; `package`: what it imports. `limits`: the seconds are of one
    answer. A process checks `_ANSWERS` of them, and is replaced sooner when one breaks it or is `alone` in
    it. May be used by several threads."""

    def __init__(self, checks: str, package: str, limits: Limits = _LIMITS) -> None:
        self._sandbox = Sandbox(limits, role=Role(f"sampan.envs.scorers:{checks}", _packages(package)))
        self._options = (checks, package, limits)
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._asked = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Scorer, self._options

    def ask(self, request: dict[str, Any], alone: bool = False) -> float:
        """The score. Raises `EnvError` where the check fails, takes too long or breaks."""
        with self._lock:
            if alone or self._asked >= _ANSWERS:
                self._end()
            child = self._child or self._sandbox.child()
            self._child = child
            self._asked += 1
            child.renew()
            try:
                said = child.ask(request)
            except Stopped as stopped:
                self._end()
                raise EnvError(f"the check of {quoted(request['answer'])} {stopped.reason}") from stopped
            if alone:
                self._end()
        if "score" in said:
            return float(said["score"])
        kind, text = said["raised"]
        raise EnvError(f"cannot check {quoted(request['answer'])}: {kind}: {text}")

    def close(self) -> None:
        """End its processes."""
        with self._lock:
            self._end()
        self._sandbox.close()

    def _end(self) -> None:
        child, self._child, self._asked = self._child, None, 0
        if child is not None:
            child.close()


def _packages(package: str) -> tuple[str, ...]:
    """Where packages are that were installed. Raises `UsageError` where this one is not."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise UsageError(
            f"{package} is not here: it comes with the extra `train` (pip install 'sampan[train]')"
        )
    own = str(Path(found.origin).parents[1])
    return tuple(place for place in sys.path if Path(place).name in _INSTALLED or place == own)
