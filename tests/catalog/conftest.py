"""A hub on this machine, and wheels that carry models."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy
import pytest
import safetensors.numpy

from sampan.core.settings import Settings

_RESOLVE = """
import sys
from sampan.catalog.catalog import resolve
from sampan.core.errors import SampanError
from sampan.core.settings import Settings
class Told:
    def start(self, total, label): print(label, file=sys.stderr, flush=True)
    def advance(self, n): pass
    def finish(self): pass
try:
    print(resolve(sys.argv[1], Settings.from_env(), Told()).path)
except SampanError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@dataclass
class Repo:
    """What the hub tells of one repository; `lies` replaces the size or sha256 in its listing."""

    files: dict[str, bytes]
    gated: bool = False
    lies: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        content = "".join(f"{name}{hashlib.sha1(data).hexdigest()}" for name, data in self.files.items())
        return hashlib.sha1(content.encode()).hexdigest()

    def sibling(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        entry: dict[str, Any] = {
            "rfilename": name,
            "size": len(data),
            "blobId": hashlib.sha1(data).hexdigest(),
        }
        if large(name):
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        for key, value in self.lies.get(name, {}).items():
            (entry["lfs"] if key == "sha256" else entry)[key] = value
        return entry


def large(name: str) -> bool:
    """Whether the hub keeps this file in LFS: with a sha256, behind a redirect to another origin."""
    return name.endswith((".safetensors", ".gguf"))


class Hub(ThreadingHTTPServer):
    """The endpoints of the hub that its client uses, with its headers and status codes; and a package index.

    `cut[file]`: drop the connection once after so many bytes. `stall[file]`: hold it there until `go` is set.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.cut: dict[str, int] = {}
        self.stall: dict[str, int] = {}
        self.go = threading.Event()
        self.requests: list[tuple[str, str, Message]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is part of the tests."""

    def fetched(self, name: str) -> list[Message]:
        """The headers of every GET that was answered with bytes of this file."""
        return [headers for method, path, headers in self.requests if method == "GET" and path.endswith(name)]


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, *args: Any) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "simple":
            self._index(self.server.repos[f"simple/{parts[1]}"])
        elif parts[0] == "api":
            self._api("/".join(parts[2:4]), parts[5])
        elif parts[0] == "cdn":
            self._content(self.server.repos["/".join(parts[1:3])], "/".join(parts[3:]), body)
        else:
            self._resolve("/".join(parts[:2]), "/".join(parts[4:]), body)

    def _api(self, name: str, revision: str) -> None:
        if name in self.server.renamed:
            self._send(307, b"", Location=self.path.replace(name, self.server.renamed[name]))
        elif (repo := self.server.repos.get(name)) is None:
            self._send(401, b'{"error":"Repository not found"}', **{"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", repo.commit):
            self._send(404, b'{"error":"Invalid rev id"}', **{"X-Error-Code": "RevisionNotFound"})
        else:
            info = {"id": name, "sha": repo.commit, "siblings": [repo.sibling(file) for file in repo.files]}
            self._send(200, json.dumps(info).encode())

    def _index(self, repo: Repo) -> None:
        links = "".join(f'<a href="/cdn/simple/carrier/{file}">{file}</a>' for file in repo.files)
        self._send(
            200, f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), **{"Content-Type": "text/html"}
        )

    def _resolve(self, name: str, file: str, body: bool) -> None:
        repo = self.server.repos[name]
        if repo.gated and self.headers.get("Authorization") != "Bearer granted":
            self._send(403 if "Authorization" in self.headers else 401, b"", **{"X-Error-Code": "GatedRepo"})
        elif file not in repo.files:
            self._send(404, b"", **{"X-Error-Code": "EntryNotFound"})
        elif large(file):
            digest = hashlib.sha256(repo.files[file]).hexdigest()
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(repo.files[file]))}
            target = f"{self.server.cdn}/cdn/{name}/{file}"
            self._send(302, b"", **linked, **{"X-Repo-Commit": repo.commit, "Location": target})
        else:
            self._content(repo, file, body)

    def _content(self, repo: Repo, file: str, body: bool) -> None:
        data, start = repo.files[file], 0
        self.server.requests.append((self.command, self.path, self.headers))
        if "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", repo.commit)
        self.end_headers()
        if body:
            self._write(file, data[start:])

    def _write(self, file: str, data: bytes) -> None:
        if file in self.server.cut:
            self.wfile.write(data[: self.server.cut.pop(file)])
            self.close_connection = True
            return
        before = self.server.stall.pop(file, 0)
        self.wfile.write(data[:before])
        self.wfile.flush()
        if before:
            self.server.go.wait(20)
        self.wfile.write(data[before:])

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub of one's own."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.go.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def settings(sampan_home: Path, hub: Hub) -> Settings:
    """An empty cache, and this hub instead of the real one."""
    return Settings(home=sampan_home, hf_endpoint=hub.url)


@pytest.fixture
def repo() -> Callable[..., Repo]:
    """Make a repository of a small model; `megabytes` is the size of its weights."""

    def make(megabytes: float = 0.1, **files: bytes) -> Repo:
        weights = numpy.random.default_rng(0).integers(0, 255, int(megabytes * 1e6), dtype=numpy.uint8)
        model = {
            "config.json": b'{"model_type": "llama"}',
            "tokenizer.json": b'{"version": "1.0"}',
            "model.safetensors": safetensors.numpy.save({"w": weights}),
        }
        return Repo({**model, **files})

    return make


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a wheel `carrier-1.0` that pip finds, and no other index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    def make(files: Mapping[str, bytes]) -> Path:
        path = folder / "carrier-1.0-py3-none-any.whl"
        metadata = {
            "METADATA": "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n",
            "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
            for name, text in metadata.items():
                archive.writestr(f"carrier-1.0.dist-info/{name}", text)
        return path

    return make


def _default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it


@pytest.fixture
def elsewhere(settings: Settings) -> Callable[..., subprocess.Popen[str]]:
    """Start `resolve(MODEL)` in a process of its own; `before` is Python to run first."""

    def start(model: str, before: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", before + _RESOLVE, model],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_ENDPOINT": settings.hf_endpoint or ""},
            preexec_fn=_default_interrupt,
        )

    return start
