"""The servers that `serving.py` measures, each started as its own process with what serves it best here.

llama.cpp: its own `llama-server` where a binary is named, one slot with a cache of its own for every client;
otherwise `python -m llama_cpp.server`, which answers one request after another. OpenVINO: see
`serving_openvino.py`. All get the same file, the same threads, and room for as many sequences as there are
clients.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from scenarios import LLAMA_CPP, OPENVINO, SAMPAN

HERE = Path(__file__).parent
_PATIENCE_S = 180.0  # until a server answers
_LEAVE_S = 30.0


@dataclass(frozen=True)
class Setup:
    """What all servers share. `tokens`: of a sequence at most. `queue`: requests that may wait at Sampan."""

    model: Path
    peer_python: str
    llama_server: str | None
    threads: int
    sequences: int
    tokens: int
    queue: int
    folder: Path


@dataclass(frozen=True)
class Server:
    """A running one. `load_s`: until it answered."""

    url: str
    model: str
    pid: int
    load_s: float


def command(name: str, setup: Setup, port: int) -> list[str]:
    """How a server is started."""
    if name == SAMPAN:
        return _sampan(setup, port)
    if name == OPENVINO:
        sizes = [str(setup.threads), str(setup.sequences), str(setup.tokens)]
        return [setup.peer_python, str(HERE / "serving_openvino.py"), str(setup.model), *sizes, str(port)]
    assert name == LLAMA_CPP
    return _llama_server(setup, port) if setup.llama_server else _llama_python(setup, port)


def _sampan(setup: Setup, port: int) -> list[str]:
    options = {
        "--port": port,
        "--threads": setup.threads,
        "--max-sequences": setup.sequences,
        "--max-queue": setup.queue,
        "--database": f"sqlite:///{setup.folder}/ledger.db",
        "--name": "sampan",
    }
    return [sys.executable, "-m", "sampan", "serve", str(setup.model), *_flat(options)]


def _llama_server(setup: Setup, port: int) -> list[str]:
    assert setup.llama_server is not None
    options = {
        "--model": setup.model,
        "--port": port,
        "--threads": setup.threads,
        "--threads-batch": setup.threads,
        "--parallel": setup.sequences,
        "--ctx-size": setup.sequences * setup.tokens,
        "--flash-attn": "on",
        "--batch-size": 512,
        "--ubatch-size": 512,
        "--cache-ram": 0,
    }
    return [setup.llama_server, *_flat(options), "--no-kv-unified"]


def _llama_python(setup: Setup, port: int) -> list[str]:
    options = {
        "--model": setup.model,
        "--port": port,
        "--n_threads": setup.threads,
        "--n_threads_batch": setup.threads,
        "--n_ctx": setup.tokens,
        "--n_batch": 512,
        "--flash_attn": "true",
        "--logits_all": "false",
        "--interrupt_requests": "false",
        "--verbose": "false",
    }
    return [setup.peer_python, "-m", "llama_cpp.server", *_flat(options)]


def _flat(options: Mapping[str, object]) -> list[str]:
    return [str(word) for option in options.items() for word in option]


def running(name: str, setup: Setup) -> AbstractContextManager[Server]:
    """Start a server, wait until it answers, and end it with all of its children."""
    port = free_port()
    return started(name, command(name, setup, port), port, setup.folder)


@contextmanager
def started(name: str, command: list[str], port: int, folder: Path) -> Iterator[Server]:
    """The same for any command."""
    log = folder / f"serve-{name.split()[0]}.log"
    start = time.perf_counter()
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        model = _wait(process, port, name, log)
        yield Server(f"http://127.0.0.1:{port}", model, process.pid, time.perf_counter() - start)
    finally:
        _end(process)


def _wait(process: "subprocess.Popen[bytes]", port: int, name: str, log: Path) -> str:
    """The name of its model, once it serves."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
        try:
            if get(port, "/health")[0] in (200, 404):
                status, body = get(port, "/v1/models")
                if status == 401:
                    return ""  # it asks for keys
                if status == 200:
                    return str(json.loads(body)["data"][0]["id"])
        except (OSError, http.client.HTTPException):
            continue
    lines = log.read_text(errors="replace").strip().splitlines()
    raise RuntimeError(f"{name} did not start: {lines[-1] if lines else 'no message'} (all of it in {log})")


def get(port: int, path: str) -> tuple[int, bytes]:
    """Ask a local server."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Politely first; then the whole session."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LEAVE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """Of this machine, now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
