"""What a service must survive: its engine dying or hanging, clients that are slow, gone, rude or too many."""

import os
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import openai
import psutil
import pytest

from sampan.core.types import ModelFiles

if TYPE_CHECKING:
    from conftest import Running, Serve

LONG: Any = {
    "messages": [{"role": "user", "content": "Write a long story about a river."}],
    "max_tokens": 400,
    "temperature": 0,
    "ignore_eos": True,
}


def _ask(running: "Running", **changes: Any) -> httpx.Response:
    body = {"model": running.model, **LONG, **changes}
    return httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=60)


def _engine(running: "Running") -> psutil.Process:
    return next(
        child
        for child in psutil.Process(running.pid).children()
        if "sampan.server.process.worker" in child.cmdline()
    )


def _is_idle(running: "Running") -> bool:
    lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    numbers = [float(line.split()[-1]) for line in lines if line.startswith(names)]
    assert len(numbers) >= 2
    return not any(numbers)


def _running(running: "Running") -> float:
    lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


def _wait(condition: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _answers(running: "Running") -> bool:
    return _ask(running, max_tokens=2).status_code == 200


def test_a_killed_engine_is_back_and_every_client_is_answered(serve: "Serve") -> None:
    with serve() as running, ThreadPoolExecutor(16) as clients:
        assert _answers(running)
        streams = [clients.submit(_stream_to_the_end, running) for _ in range(8)]
        whole = [clients.submit(_ask, running) for _ in range(8)]
        assert _wait(lambda: _running(running) == 16, 20)
        _engine(running).kill()
        killed = time.monotonic()
        assert _wait(lambda: _answers(running), 20)
        assert time.monotonic() - killed < 5
        for stream in streams:
            assert "engine was restarted" in stream.result(timeout=30)
        for answer in whole:
            assert answer.result(timeout=30).status_code == 503
            assert "retry-after" in answer.result().headers
        assert httpx.get(f"{running.url}/health").json()["restarts"] == 1


def _stream_to_the_end(running: "Running") -> str:
    """The error that the official client raises in the middle of a stream."""
    try:
        for _ in running.openai.chat.completions.create(model=running.model, **_standard(), stream=True):
            pass
    except openai.APIError as error:
        return str(error)
    return "ended well"


def _standard() -> Any:
    return {**{k: v for k, v in LONG.items() if k != "ignore_eos"}, "extra_body": {"ignore_eos": True}}


def test_an_engine_that_never_starts_is_tried_less_and_less(
    serve: "Serve", default_model: ModelFiles, tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(default_model.path, model)
    with serve(name=str(model)) as running:
        ask = {"model": str(model), "prompt": "a", "max_tokens": 2}
        assert httpx.post(f"{running.url}/v1/completions", json=ask, timeout=60).status_code == 200
        model.rename(tmp_path / "elsewhere")
        _engine(running).kill()
        time.sleep(6)
        health = httpx.get(f"{running.url}/health").json()
        assert health["engine"] == "starting"
        assert 2 <= health["restarts"] <= 7
        answer = httpx.post(f"{running.url}/v1/completions", json=ask, timeout=60)
        assert answer.status_code == 503
        assert "no such file" in answer.json()["error"]["message"].lower()
        (tmp_path / "elsewhere").rename(model)
        assert _wait(lambda: httpx.get(f"{running.url}/ready").status_code == 200, 40)


def test_a_stalled_engine_is_restarted(serve: "Serve") -> None:
    with serve("--stall-seconds", "2") as running:
        assert _answers(running)
        engine = _engine(running)
        with ThreadPoolExecutor(1) as clients:
            answer = clients.submit(_ask, running)
            time.sleep(0.3)
            engine.send_signal(signal.SIGSTOP)
            assert httpx.get(f"{running.url}/health", timeout=1).status_code == 200
            assert answer.result(timeout=20).status_code == 503
        assert _wait(lambda: _answers(running), 10)
        assert not engine.is_running()


def test_a_stopped_service_does_not_blame_its_engine(serve: "Serve") -> None:
    """A laptop that sleeps: no beat was heard for long, because nobody listened."""
    with serve("--stall-seconds", "1") as running:
        assert _answers(running)
        os.kill(running.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(running.pid, signal.SIGCONT)
        assert _answers(running)
        time.sleep(1)
        assert httpx.get(f"{running.url}/health").json()["restarts"] == 0


def test_an_engine_without_service_ends(serve: "Serve") -> None:
    with serve() as running:
        engine = _engine(running)
        running.process.kill()
        assert _wait(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, 10)
        running.process.wait()
        running.process.returncode = 0  # it was we who killed it


def test_sigterm_drains(serve: "Serve") -> None:
    with serve() as running, ThreadPoolExecutor(1) as clients:
        assert _answers(running)
        answer = clients.submit(_ask, running, max_tokens=150)
        time.sleep(0.5)
        running.process.send_signal(signal.SIGTERM)
        assert answer.result(timeout=30).json()["usage"]["completion_tokens"] == 150
        assert running.process.wait(20) == 0


def test_a_second_sigterm_does_not_wait(serve: "Serve") -> None:
    with serve() as running, ThreadPoolExecutor(1) as clients:
        assert _answers(running)
        answer = clients.submit(_ask, running, max_tokens=6000)
        time.sleep(0.5)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(5) == 0
        with pytest.raises(httpx.HTTPError):
            answer.result(timeout=5).raise_for_status()


@pytest.mark.parametrize("phase", ["headers", "body", "queue", "stream"])
def test_a_client_that_hangs_up_leaves_nothing(service: "Running", phase: str) -> None:
    body = httpx.Request("POST", service.url, json={"model": service.model, **LONG, "stream": True}).content
    with _connection(service) as client:
        if phase == "headers":
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
        elif phase == "body":
            client.sendall(_head(len(body)) + body[:20])
        else:
            client.sendall(_head(len(body)) + body)
            if phase == "stream":
                assert b"200" in client.recv(4096)
        time.sleep(0.02)
    assert _wait(lambda: _is_idle(service), 5)
    assert _answers(service)


def test_a_client_that_never_reads_is_dropped(serve: "Serve") -> None:
    with serve("--write-seconds", "1") as running:
        body = {"model": running.model, **LONG, "max_tokens": 2000, "logprobs": True, "top_logprobs": 20}
        content = httpx.Request("POST", running.url, json={**body, "stream": True}).content
        with _connection(running, receive_buffer=2048) as client:
            client.sendall(_head(len(content)) + content)
            assert _wait(lambda: not _is_idle(running), 10)
            assert _wait(lambda: _is_idle(running), 60)
            assert _answers(running)


def test_slow_headers_are_cut_off(serve: "Serve") -> None:
    with serve("--header-seconds", "1") as running, _connection(running) as client:
        client.settimeout(10)
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert _wait(lambda: not _takes(client, b"x-slow: 1\r\n"), 5)
        assert _answers(running)


def test_a_slow_body_is_cut_off(serve: "Serve") -> None:
    with serve("--body-seconds", "1") as running, _connection(running) as client:
        client.settimeout(10)
        client.sendall(_head(1000) + b"{")
        assert b" 408 " in client.recv(4096)


def test_a_huge_body_is_refused(service: "Running") -> None:
    answer = httpx.post(f"{service.url}/v1/chat/completions", content=b"x" * (100 << 20), timeout=60)
    assert answer.status_code == 413
    assert _answers(service)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff\xfe", b'{"model": "\xc3\x28"}', b"[" * 100_000, b'{"a":' * 50_000, b"null", b"[]", b"{}",
        b'{"messages": "\\ud800"}', b'{"model": 1e999}', b"NaN",
    ],
)  # fmt: skip
def test_what_is_no_request_is_a_400(service: "Running", body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{service.url}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_lone_surrogate_is_a_400(service: "Running") -> None:
    raw = b'{"model": "smollm2-135m", "messages": [{"role": "user", "content": "\\ud800"}]}'
    answer = httpx.post(
        f"{service.url}/v1/chat/completions", content=raw, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400


def test_ten_thousand_connections(service: "Running") -> None:
    host = urlsplit(service.url)
    assert host.hostname is not None
    open_files = 10_000
    clients: list[socket.socket] = []
    try:
        _allow_files(open_files + 200)
        for _ in range(open_files):
            clients.append(socket.create_connection((host.hostname, host.port or 80), timeout=10))
        started = time.monotonic()
        assert httpx.get(f"{service.url}/health", timeout=5).status_code == 200
        assert time.monotonic() - started < 2
    finally:
        for client in clients:
            client.close()
    assert _wait(lambda: _answers(service), 10)


def test_a_full_queue_answers_at_once(serve: "Serve") -> None:
    with serve("--max-queue", "4", "--max-sequences", "1") as running, ThreadPoolExecutor(12) as clients:
        assert _answers(running)
        statuses = []
        for future in [clients.submit(_ask, running, max_tokens=60) for _ in range(12)]:
            answer = future.result(timeout=60)
            statuses.append(answer.status_code)
            if answer.status_code != 200:
                assert answer.headers["retry-after"]
        assert statuses.count(200) >= 5
        assert set(statuses) <= {200, 429, 503}
        assert len(set(statuses)) == 2


def _takes(client: socket.socket, data: bytes) -> bool:
    try:
        client.sendall(data)
    except OSError:
        return False
    return True


def _connection(running: "Running", receive_buffer: int | None = None) -> socket.socket:
    place = urlsplit(running.url)
    client = socket.socket()
    try:
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect((place.hostname, place.port))
    except OSError:
        client.close()
        raise
    return client


def _head(length: int) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: " + str(length).encode() + b"\r\n\r\n"
    )


def _allow_files(count: int) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"this machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
