"""One client must not be able to stop the service for the others: each way that once did."""

import json
import signal
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from sampan.core.types import ModelFiles

if TYPE_CHECKING:
    from conftest import Running, Serve

MIB = 1 << 20
JSON = {"content-type": "application/json"}


@contextmanager
def _attention(running: "Running") -> Iterator[dict[str, float]]:
    """Asks `/health` all the time and looks at the memory of the service's own process: the worst of both."""
    process = psutil.Process(running.pid)
    worst = {"health_s": 0.0, "bytes": 0.0}
    before, ended = process.memory_info().rss, False

    def look() -> None:
        with httpx.Client(base_url=running.url) as client:
            while not ended:
                started = time.monotonic()
                assert client.get("/health", timeout=30).status_code == 200
                worst["health_s"] = max(worst["health_s"], time.monotonic() - started)
                worst["bytes"] = max(worst["bytes"], process.memory_info().rss - before)
                time.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield worst
        finally:
            ended = True
            looking.result()


def test_more_answers_than_a_request_may_ask_for(service: "Running") -> None:
    answer = service.complete(prompt=["a"] * 33, n=128)
    assert answer.status_code == 400
    assert "1024 answers" in answer.json()["error"]["message"]


LONG = "a " * (2 * MIB)


TEXTS: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/completions", {"prompt": "a " * (16 * MIB)}, 413),
    ("/v1/completions", {"prompt": LONG}, 400),
    ("/v1/completions", {"prompt": "a " * 200_000}, 400),
    ("/tokenize", {"prompt": LONG}, 400),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}, 400),
    ("/v1/messages", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 1}, 400),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": LONG}]}, 400),
    ("/v1/responses", {"input": LONG}, 400),
    ("/detokenize", {"tokens": [1] * 15_000_000}, 413),
    ("/detokenize", {"tokens": [1] * 2_000_000}, 400),
    ("/detokenize", {"tokens": [1] * 900_000}, 400),
    ("/v1/completions", {"prompt": "a", "stop": ["a" * 900_000] * 16}, 400),
    ("/v1/completions", {"prompt": [[]] * 1_000_000}, 400),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}] * 100_000}, 400),
]


@pytest.mark.parametrize(("path", "body", "status"), TEXTS)
def test_a_long_text_stalls_nobody(service: "Running", path: str, body: dict[str, Any], status: int) -> None:
    content = json.dumps({"model": service.model, **body}).encode()
    with _attention(service) as worst:
        answer = httpx.post(service.url + path, content=content, headers=JSON, timeout=60)
    assert answer.status_code == status, answer.text
    assert len(answer.text) < 1000
    assert worst["bytes"] < 300 * MIB
    assert worst["health_s"] < 1.0  # of 0.1 promised: what a busy machine takes is no fault of the service


def test_a_long_prompt_that_fits_is_answered(service: "Running") -> None:
    """It is parsed, rendered and encoded elsewhere, to the same tokens."""
    said = [{"role": "user", "content": "word " * 100 + "#" * 70_000}]
    counted = httpx.post(f"{service.url}/tokenize", json={"messages": said}, timeout=60).json()
    assert 900 < counted["count"] < 8000
    body = {"model": service.model, "messages": said, "max_tokens": 1}
    answer = httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=60).json()
    assert answer["usage"]["prompt_tokens"] == counted["count"]


def test_the_process_that_reads_texts_is_replaced(service: "Running") -> None:
    """All of them are killed, the one that they come from as well."""

    def texts() -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process(service.pid).children(recursive=True)
            if "sampan.server.process.worker" not in child.cmdline()
        ]

    assert texts()
    for child in texts():
        with suppress(psutil.NoSuchProcess):
            child.kill()
    statuses = [service.complete().status_code for _ in range(3)]
    assert statuses[0] in (200, 400, 503)
    assert statuses[1:] == [200, 200]


def test_the_key_comes_before_the_body(serve: "Serve", tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-that-is-long-enough-0123456789\n")
    keys.chmod(0o600)
    with serve("--api-key-file", str(keys)) as running, running.connection() as client:
        client.settimeout(10)
        client.sendall(running.head(30 * MIB))  # and nothing of the body
        assert client.recv(4096).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("length", [b"33554433", b"9" * 400, b"-1", b"1e3", b"x"])
def test_the_length_comes_before_the_body(service: "Running", length: bytes) -> None:
    with service.connection() as client:
        client.settimeout(10)
        client.sendall(service.head(0).replace(b"length: 0", b"length: " + length))
        assert client.recv(4096).split()[1] in (b"413", b"400")


def test_a_body_of_unknown_length_is_bounded(service: "Running") -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(64):
            yield b"a" * 65536

    answer = httpx.post(f"{service.url}/v1/completions", content=parts(), headers=JSON, timeout=60)
    assert answer.status_code == 413
    assert "content-length" in answer.json()["error"]["message"]


def test_headers_are_bounded(service: "Running") -> None:
    with _attention(service) as worst, service.connection() as client:
        client.settimeout(10)
        client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
        line = b"x-long: " + b"a" * 1000 + b"\r\n"
        with suppress(OSError):
            for _ in range(20_000):
                client.sendall(line)
        with suppress(OSError):
            assert client.recv(4096).startswith(b"HTTP/1.1 431 ")
    assert worst["bytes"] < 20 * MIB


def test_large_grammars_of_one_caller_wait_for_each_other(service: "Running") -> None:
    """Another's request needs none: it is answered while they are compiled, and slots stay free for it."""

    def ask(number: int) -> int:
        names = {f"n{number}_{place}": {"type": "string", "maxLength": 40} for place in range(2000)}
        schema = {"type": "object", "properties": names, "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        body = {"model": service.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        chat = f"{service.url}/v1/chat/completions"
        return httpx.post(chat, json={**body, "response_format": form}, timeout=120).status_code

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
        time.sleep(0.3)
        started = time.monotonic()
        assert service.complete().status_code == 200
        assert time.monotonic() - started < 3
        assert {each.result() for each in asked} <= {200, 400}
    assert service.wait(lambda: service.metric("sampan:slots_free") == service.metric("sampan:slots"), 10)


HOSTILE = (
    "{% for m in messages %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
)


def test_a_template_that_never_ends_stalls_nobody(
    serve: "Serve", default_model: ModelFiles, tmp_path: Path
) -> None:
    """The default model with another template of the same length, so that all else stays in its place."""
    data = bytearray(default_model.path.read_bytes())
    start = data.index(b"{% for message in messages %}")
    length = struct.unpack("<Q", data[start - 8 : start])[0]
    template = (HOSTILE + "{% endfor %}").encode().ljust(length)
    assert len(template) == length
    data[start : start + length] = template
    model = tmp_path / "hostile.gguf"
    model.write_bytes(data)
    with serve(name=str(model)) as running, ThreadPoolExecutor(4) as pool:
        asked = []
        with _attention(running) as worst:
            for _ in range(4):
                said = {"messages": [{"role": "user", "content": "Hi"}] * 3, "max_tokens": 1}
                chat, body = f"{running.url}/v1/chat/completions", {"model": model.stem, **said}
                asked.append(pool.submit(httpx.post, chat, json=body, timeout=60))
            time.sleep(2)
        assert worst["health_s"] < 1.0
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
        assert {each.result().status_code for each in asked} <= {400, 503}
