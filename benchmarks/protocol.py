"""What every worker speaks: one JSON object a line, requests on stdin, replies on stdout. Needs numpy.

A worker says `{"ready": …}` once it is loaded, then answers each request `{"request": NAME, …}` with the
values of one measurement, or with `{"error": TEXT}`. It ends with its stdin, and never outlives its parent.
"""

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Values = dict[str, Any]
Handlers = dict[str, Callable[..., Values]]

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def serve(load: Callable[[], tuple[Values, Handlers]]) -> None:
    """Load, then answer requests with the handler of their name, called with their other fields."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who ends its workers
    _end_with_parent()
    replies = _own_stdout()

    def say(values: Values) -> None:
        print(json.dumps(values), file=replies, flush=True)

    ready, handlers = load()
    say({"ready": ready | {"can": list(handlers)}})
    for line in sys.stdin:
        fields = json.loads(line)
        try:
            say(handlers[fields.pop("request")](**fields))
        except Exception as error:
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _own_stdout() -> Any:
    """The pipe to the parent, alone: what native code prints on descriptor 1 goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def peak_memory() -> int:
    """Bytes of this process at its largest (VmHWM of proc(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status names no VmHWM")


def token_ids(seed: int, count: int, length: int, vocabulary: int = 49000) -> list[list[int]]:
    """`count` prompts of ordinary tokens, the same for every engine; other seeds give other ones."""
    end = min(vocabulary, 49000)
    ids: list[list[int]] = np.random.default_rng(seed).integers(100, end, (count, length)).tolist()
    return ids


class Clock:
    """Times of a run of `requests` requests, from now on: told after each step who got tokens."""

    def __init__(self, requests: int) -> None:
        self.requests = requests
        self.started: set[int] = set()
        self.tokens = 0
        self.filled = self.end = 0.0  # seconds to the last request's first token, and to the last token
        self._full_tokens = 0  # of the steps that gave one to every request, all of which had begun before
        self._full_seconds = 0.0
        self._start = time.perf_counter()

    def step(self, given: list[int]) -> None:
        """`given`: the request of every token that the step gave."""
        if not given:
            return
        before, self.end = self.end, time.perf_counter() - self._start
        self.tokens += len(given)
        if len(self.started) < self.requests:
            self.started |= set(given)
            self.filled = self.end
        elif len(set(given)) == self.requests:
            self._full_tokens += len(given)
            self._full_seconds += self.end - before

    @property
    def decode_tps(self) -> float:
        """Tokens a second while every request decodes; 0 where they never do, as in a warm-up."""
        return self._full_tokens / self._full_seconds if self._full_tokens else 0.0
