"""A running service that every test of this folder shares: the real model, in processes of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO

import anthropic
import openai
import pytest

from sampan.core.types import ModelFiles

_ADDRESS = re.compile(r"is served at (http://\S+)")


@dataclass
class Running:
    """`url`: without a slash at its end. `pid`: of the API process. `logs`: the lines of stderr so far."""

    url: str
    pid: int
    process: "subprocess.Popen[str]"
    model: str = "smollm2-135m"
    logs: list[str] = field(default_factory=list)

    @cached_property
    def openai(self) -> openai.OpenAI:
        """The official client, which does not hide a failure by asking again."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    @cached_property
    def anthropic(self) -> anthropic.Anthropic:
        """The same of Anthropic."""
        return anthropic.Anthropic(base_url=self.url, api_key="none", max_retries=0, timeout=60)

    def close(self) -> None:
        """Give the clients' connections back."""
        for name in ("openai", "anthropic"):
            if name in self.__dict__:
                self.__dict__[name].close()


Serve = Callable[..., AbstractContextManager[Running]]


@contextmanager
def _serve(*options: str, **environment: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "sampan", "serve", "--port", "0", "--threads", "2", *options]
    variables = {**os.environ, "SAMPAN_TUNE": "0", **environment}
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        running, reader = Running("", process.pid, process), None
        try:
            assert process.stderr is not None
            running.url = _address(process.stderr, running.logs)
            reader = threading.Thread(target=running.logs.extend, args=(process.stderr,), daemon=True)
            reader.start()
            yield running
        finally:
            running.close()
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            if reader is not None:
                reader.join(10)
        assert code == 0, "".join(running.logs)


@pytest.fixture(scope="session")
def service(default_model: ModelFiles) -> Iterator[Running]:  # noqa: ARG001 - fetched before the server starts
    """`sampan serve` on a free port; SIGTERM ends it, and it must say that all was well."""
    with _serve() as running:
        yield running


@pytest.fixture(scope="session")
def serve(default_model: ModelFiles) -> Serve:  # noqa: ARG001
    """Starts a service of one's own: `with serve("--option", …, NAME="value") as running`."""
    return _serve


def _address(lines: IO[str], logs: list[str]) -> str:
    for line in lines:
        logs.append(line)
        if found := _ADDRESS.search(line):
            return found[1]
    raise AssertionError("the service did not start:\n" + "".join(logs))
