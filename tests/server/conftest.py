"""A running service that every test of this folder shares: the real model, in processes of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, HTTPServer
from tempfile import TemporaryDirectory
from typing import IO, Any
from urllib.parse import urlsplit

import anthropic
import httpx
import openai
import psutil
import pytest

from sampan.core.types import ModelFiles
from sampan.server.ask import Part
from sampan.server.text import ModelText

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

    def complete(self, **changes: Any) -> httpx.Response:
        """A short completion; `changes`: of its body."""
        body = {"model": self.model, "prompt": "a", "max_tokens": 2, **changes}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=60)

    def answers(self) -> bool:
        """Whether a completion is answered."""
        return self.complete().status_code == 200

    @property
    def engine(self) -> psutil.Process:
        """The engine's process."""
        children = psutil.Process(self.pid).children()
        return next(child for child in children if "sampan.server.process.worker" in child.cmdline())

    def memory(self) -> int:
        """Bytes that the API process has resident."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def metric(self, name: str) -> float:
        """The first number of this name."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))

    def is_idle(self) -> bool:
        """Whether no request runs or waits."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        numbers = [float(line.split()[-1]) for line in lines if line.startswith(names)]
        assert len(numbers) >= 2
        return not any(numbers)

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it comes true within this time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.05)
        return False

    def connection(self, receive_buffer: int | None = None) -> socket.socket:
        """A client that says what it likes."""
        place = urlsplit(self.url)
        client = socket.socket()
        try:
            if receive_buffer is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.connect((place.hostname, place.port))
        except OSError:
            client.close()
            raise
        return client

    def head(self, length: int, path: str = "/v1/chat/completions") -> bytes:
        """What comes before a body of this length."""
        return (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {length}\r\n\r\n"
        ).encode()

    def close(self) -> None:
        """Give the clients' connections back."""
        for name in ("openai", "anthropic"):
            if name in self.__dict__:
                self.__dict__[name].close()


Serve = Callable[..., AbstractContextManager[Running]]


@contextmanager
def run_service(*options: str, name: str | None = None, **environment: str) -> Iterator[Running]:
    """`sampan serve` with these options on a free port; it must end well."""
    model = [] if name is None else [name]
    command = [sys.executable, "-m", "sampan", "serve", *model, "--port", "0", "--threads", "2", *options]
    variables = {**os.environ, "SAMPAN_TUNE": "0", **environment}
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(
            [*command, *([] if "--database" in options else ["--database", f"sqlite:///{folder}/ledger.db"])],
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
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
    with run_service() as running:
        yield running


@pytest.fixture(scope="session")
def serve(default_model: ModelFiles) -> Serve:  # noqa: ARG001
    """Starts a service of one's own: `with serve("--option", …, name=MODEL, NAME="value") as running`."""
    return run_service


@pytest.fixture(scope="session")
def model_text(default_model: ModelFiles) -> ModelText:
    """The tokenizer and the chat template of the default model, as the service has them."""
    return ModelText.read(default_model, "smollm2-135m")


@pytest.fixture(scope="session")
def played() -> Callable[[Sequence[Part | Exception]], AsyncIterator[Part]]:
    """Parts as the service would give them, or an error in their midst."""

    async def play(parts: Sequence[Part | Exception]) -> AsyncIterator[Part]:
        for part in parts:
            if isinstance(part, Exception):
                raise part
            yield part

    return play


@pytest.fixture
def canned() -> Iterator[Callable[[list[bytes]], str]]:
    """Serves these server-sent events, whatever is asked: for what a small model would not say by itself."""
    servers = []

    def serve(frames: list[bytes]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                self.wfile.write(b"".join(frames))

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def _address(lines: IO[str], logs: list[str]) -> str:
    for line in lines:
        logs.append(line)
        if found := _ADDRESS.search(line):
            return found[1]
    raise AssertionError("the service did not start:\n" + "".join(logs))
