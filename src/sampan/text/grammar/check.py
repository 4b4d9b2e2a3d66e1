"""A process that compiles grammars ahead of ours: what takes too long or too much memory ends it alone.

Compiling cannot be stopped where it is done, and a few hundred bytes of a client's can make it take minutes
and gigabytes. The process has the interpreter and a vocabulary of single bytes, and works at a low priority.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.core.errors import RequestError
from sampan.core.memory import give_back_freed_memory, resident_memory

if TYPE_CHECKING:
    from sampan.text.grammar.source import Source

STACK_BYTES = 512 << 20
"""Rules that lead to rules are followed by recursion; only what is used is taken."""
MOST_BYTES = 192 << 20
PATIENCE = 60
"""Seconds by the clock to one of processor time: a busy machine gives little to who gives way. It is no limit
of a grammar's, but of how long anybody waits for one."""
_START_S = 20.0
_NICE = 15
_LIMITS_TIME = sys.platform != "win32"  # whether the kernel counts a process's seconds
_FORCED = 1_000  # bytes that must come next
_TRIMMED = 16 << 20
_stacks = threading.Lock()


def on_deep_stack(work: Callable[[], None], seconds: float | None = None) -> None:
    """Run on a thread with room for deep recursion, and wait for it, that long at most."""
    with _stacks:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread = threading.Thread(target=work, name="sampan-grammar", daemon=True)
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join(seconds)


def step_back() -> None:
    """Let this thread, and those that it starts, give way to others."""
    if sys.platform == "linux":  # elsewhere threads have no priorities of their own
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


class GrammarsBusy(RequestError):
    """Too much is being compiled, or is in use: the same grammar may do later."""


class Checker:
    """One such process, for one vocabulary; from one thread at a time. It is ended with its owner.

    `tokens`: the vocabulary's size, its control tokens' texts by their ids, the tokens that end an answer.
    """

    def __init__(self, tokens: Mapping[str, Any]) -> None:
        if not sys.executable:
            raise FileNotFoundError("the interpreter's own file is not known")
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
            process_group=0,  # an interrupt at the terminal is not for it
        )
        self._process = process
        self._end = weakref.finalize(self, _end, process, os.getpid())
        self._ask(tokens, _START_S)

    def check(self, source: "Source", seconds: float) -> int:
        """Bytes that the grammar takes, about.

        Raises `RequestError` for one that cannot be used, or that takes more than `seconds` of processor time
        or `MOST_BYTES`; `GrammarsBusy` where the machine gave it no time; `ChildProcessError` where somebody
        else has ended the process.
        """
        asked = {"text": source.text, "limits": source.numbers(), "seconds": seconds}
        try:
            answer = self._ask(asked, PATIENCE * seconds)
        except TimeoutError:
            raise too_busy(source) if _LIMITS_TIME else _too_much(source, seconds) from None
        except (OSError, ValueError):
            code = self._process.returncode
            if code in (0, 1, -getattr(signal, "SIGKILL", 9)):
                raise ChildProcessError from None
            slow = code == -getattr(signal, "SIGXCPU", 0)
            raise _too_much(source, seconds if slow else None) from None
        if answer["error"]:
            raise RequestError(f"the {source.name} cannot be used: {source.explained(answer['error'])}")
        if answer["bytes"] > MOST_BYTES:
            raise _too_much(source, None)
        return int(answer["bytes"])

    @property
    def ended(self) -> bool:
        """It checks no more."""
        return self._process.poll() is not None

    def _ask(self, message: Mapping[str, Any], seconds: float) -> Any:
        """The answer; an `OSError` or `ValueError` where there is none, and then the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            self._end()
            if late.is_set():
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()


def too_busy(source: "Source") -> GrammarsBusy:
    """The error of one that was not compiled for want of processor time."""
    return GrammarsBusy(f"the {source.name} took too long to compile on a busy machine: try again later")


def _too_much(source: "Source", seconds: float | None) -> RequestError:
    what = f"more than {MOST_BYTES >> 20} MiB" if seconds is None else f"longer than {seconds:g} s"
    return RequestError(f"the {source.name} took {what} to compile: make it simpler")


def _end(process: "subprocess.Popen[str]", owner: int) -> None:
    if os.getpid() != owner:  # but a fork of it
        return
    process.kill()
    with contextlib.suppress(OSError):  # what it did not read is still to be written
        process.communicate()
    process.wait()


class _Bytes:
    """The vocabulary that it checks with, as llguidance asks for it."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, size: int, special: Mapping[str, str], ends: list[int]) -> None:
        self.eos_token_id = ends[0]
        self.special_token_ids = sorted(map(int, special))
        self.tokens = [b""] * size
        free = (token for token in range(size) if str(token) not in special)
        for byte, token in zip(range(256), free, strict=False):
            self.tokens[token] = bytes([byte])
        self._known = {token: number for number, token in enumerate(self.tokens) if token}
        for token in self.special_token_ids:
            self.tokens[token] = special[str(token)].encode()

    def __call__(self, text: str | bytes) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        return [self._known[bytes([byte])] for byte in data[:_FORCED]]


def main() -> None:
    """Run as a process: the first line is the vocabulary, each other one a grammar."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the end of its input is its end
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICE)
    on_deep_stack(_serve)


def _serve() -> None:
    from llguidance import LLMatcher, LLTokenizer

    from sampan.text.grammar.source import parser_limits

    tokens = json.loads(sys.stdin.readline())
    words: Any = _Bytes(tokens["size"], tokens["special"], tokens["ends"])
    vocabulary = LLTokenizer(words, eos_token=tokens["ends"], slices=[])
    LLMatcher(vocabulary, LLMatcher.grammar_from_regex("a")).compute_bitmask()  # what is built once
    _limit_memory()
    print("true", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        _limit_time(asked["seconds"])
        before = resident_memory()
        _forget_peak()
        try:
            matcher = LLMatcher(vocabulary, asked["text"], log_level=0, limits=parser_limits(asked["limits"]))
            if not matcher.is_error():
                matcher.compute_bitmask()
            error = matcher.get_error() if matcher.is_error() else ""
            del matcher
        except MemoryError:
            os.abort()  # as where llguidance has no memory left
        except BaseException as panic:  # it derives from no Exception
            error = str(panic) or "it cannot be read"
        grown = max(0, (_status("VmHWM:") or 0) - before)
        if grown > _TRIMMED:
            give_back_freed_memory()
        if error.startswith("NoExtension"):  # the real vocabulary decides
            error = ""
        print(json.dumps({"error": error, "bytes": grown}), flush=True)


def _limit_time(seconds: float) -> None:
    """Let the kernel end this process after so many more seconds of processor time."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), hard))


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if (used := _status("VmData:")) is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (used + MOST_BYTES, used + MOST_BYTES))


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int | None:
    """Bytes, from what Linux tells of this process."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    main()
