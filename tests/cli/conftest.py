"""The real program as a process of its own, on the real default model."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sampan.core.types import ModelFiles

Process = subprocess.Popen[str]
Done = subprocess.CompletedProcess[str]

_NOT_OURS = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "NO_COLOR", "SAMPAN_ISA", "SAMPAN_THREADS")


def _default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it


@dataclass
class Program:
    """`python -m sampan` with `env` on top of this process's environment."""

    env: dict[str, str]
    running: list[Process] = field(default_factory=list)

    def __call__(self, *words: str, stdin: str | None = None, **env: str) -> Done:
        return subprocess.run(
            self.line(*words), input=stdin, env=self.env | env, capture_output=True, text=True, timeout=120
        )

    def line(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "sampan", *words]

    def start(self, *words: str, **streams: int) -> Process:
        """The program, with pipes for the streams that are not given."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            self.line(*words), env=self.env, text=True, preexec_fn=_default_interrupt, **(pipes | streams)
        )
        self.running.append(process)
        return process


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def sampan(default_model: ModelFiles, compiled: Path) -> Iterator[Program]:
    """The program, with the default model in the cache; what still runs afterwards is killed."""
    assert default_model.path.is_file()
    env = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    program = Program(
        env | {"PYTHONPYCACHEPREFIX": str(compiled), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    )
    yield program
    for process in program.running:
        process.kill()
        process.communicate()


@dataclass
class Terminal:
    """A pseudo-terminal; the program gets `inside`."""

    outside: int
    inside: int
    seen: str = ""
    place: int = 0

    def read_until(self, text: str, seconds: float = 60) -> None:
        """Read on until `text` has come; what comes after it is for the next call."""
        end = time.monotonic() + seconds
        while text not in self.seen[self.place :]:
            assert time.monotonic() < end, f"{text!r} never came: {self.seen[self.place :]!r}"
            if select.select([self.outside], [], [], 0.5)[0]:
                self.seen += os.read(self.outside, 65536).decode("utf-8", "replace")
        self.place = self.seen.index(text, self.place) + len(text)

    def type(self, text: str) -> None:
        os.write(self.outside, text.encode())

    def rest(self) -> str:
        """What is left when every process has let go of the terminal."""
        os.close(self.inside)
        try:
            while data := os.read(self.outside, 65536):
                self.seen += data.decode("utf-8", "replace")
        except OSError:
            pass  # Linux's end of file
        return self.seen


@pytest.fixture
def terminal() -> Iterator[Callable[[], Terminal]]:
    opened: list[Terminal] = []

    def open_terminal() -> Terminal:
        opened.append(Terminal(*pty.openpty()))
        return opened[-1]

    yield open_terminal
    for each in opened:
        os.close(each.outside)
