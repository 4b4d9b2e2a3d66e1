"""Clients that are slow, gone, half gone or too many: what they had is free again for the others."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Running, Serve

STORY: Any = {
    "messages": [{"role": "user", "content": "Write a long story about a river."}],
    "max_tokens": 400,
    "temperature": 0,
    "ignore_eos": True,
}


@pytest.mark.parametrize(
    ("body", "clients"),
    [({"n": 128, "max_tokens": 400}, 1), ({"max_tokens": 400}, 128), ({"prompt": ["a"] * 8, "n": 128}, 4)],
)
def test_hanging_up_gives_every_slot_back(service: "Running", body: dict[str, Any], clients: int) -> None:
    def leave(_: int) -> None:
        content = {"model": service.model, "prompt": "a", **body}
        with suppress(httpx.TimeoutException):
            httpx.post(f"{service.url}/v1/completions", json=content, timeout=1)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(leave, range(clients)))
    assert service.complete().status_code == 200
    assert service.wait(lambda: service.metric("sampan:slots_free") == service.metric("sampan:slots"), 10)
    assert service.metric("sampan:queue_unstuck_total") == 0


@pytest.mark.parametrize("phase", ["headers", "body", "queue", "stream"])
def test_a_client_that_hangs_up_leaves_nothing(service: "Running", phase: str) -> None:
    body = httpx.Request("POST", service.url, json={"model": service.model, **STORY, "stream": True}).content
    with service.connection() as client:
        if phase == "headers":
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
        elif phase == "body":
            client.sendall(service.head(len(body)) + body[:20])
        else:
            client.sendall(service.head(len(body)) + body)
            if phase == "stream":
                assert b"200" in client.recv(4096)
        time.sleep(0.02)
    assert service.wait(service.is_idle, 5)
    assert service.answers()


def test_a_client_that_closed_its_direction_is_answered(service: "Running") -> None:
    body = json.dumps({"model": service.model, "prompt": "a", "max_tokens": 40, "ignore_eos": True}).encode()
    with service.connection() as client:
        client.settimeout(30)
        client.sendall(service.head(len(body), "/v1/completions") + body)
        client.shutdown(socket.SHUT_WR)
        answer = _read(client)
    interim, _, rest = answer.partition(b"HTTP/1.1 200 ")
    assert interim in (b"", b"HTTP/1.1 100 Continue\r\n\r\n")
    assert b'"completion_tokens":40' in rest.replace(b" ", b"")


def _read(client: socket.socket) -> bytes:
    answer = b""
    while part := client.recv(65536):
        answer += part
        if b"\r\n\r\n" in answer and answer.endswith(b"}"):
            break
    return answer


def test_a_client_that_has_gone_is_told_from_it(service: "Running") -> None:
    body = json.dumps(
        {"model": service.model, "prompt": "a", "max_tokens": 6000, "ignore_eos": True}
    ).encode()
    with service.connection() as client:
        client.sendall(service.head(len(body), "/v1/completions") + body)
        assert service.wait(lambda: service.metric("vllm:num_requests_running") > 0, 10)
    assert service.wait(lambda: service.metric("vllm:num_requests_running") == 0, 5)


def test_a_client_that_never_reads_a_whole_answer_is_dropped(serve: "Serve") -> None:
    with serve("--write-seconds", "1", "--max-sequences", "8") as running:
        body = {
            "model": running.model,
            "prompt": ["a"] * 64,
            "max_tokens": 20,
            "logprobs": 20,
            "ignore_eos": True,
        }
        content = json.dumps(body).encode()
        with running.connection(receive_buffer=2048) as client:
            client.sendall(running.head(len(content), "/v1/completions") + content)
            process = psutil.Process(running.pid)
            assert running.wait(lambda: running.metric("vllm:generation_tokens_total") >= 64 * 20, 60)
            assert running.wait(lambda: not _is_connected(process, client), 20)


def _is_connected(process: psutil.Process, client: socket.socket) -> bool:
    port = client.getsockname()[1]
    return any(each.raddr and each.raddr.port == port for each in process.net_connections("tcp"))


def test_a_client_that_never_reads_is_dropped(serve: "Serve") -> None:
    with serve("--write-seconds", "1") as running:
        body = {"model": running.model, **STORY, "max_tokens": 2000, "logprobs": True, "top_logprobs": 20}
        content = httpx.Request("POST", running.url, json={**body, "stream": True}).content
        with running.connection(receive_buffer=2048) as client:
            client.sendall(running.head(len(content)) + content)
            assert running.wait(lambda: not running.is_idle(), 10)
            assert running.wait(running.is_idle, 60)
            assert running.answers()


def test_slow_headers_are_cut_off(serve: "Serve") -> None:
    with serve("--header-seconds", "1") as running, running.connection() as client:
        client.settimeout(10)
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert running.wait(lambda: not _takes(client, b"x-slow: 1\r\n"), 5)
        assert running.answers()


def _takes(client: socket.socket, data: bytes) -> bool:
    try:
        client.sendall(data)
    except OSError:
        return False
    return True


def test_a_slow_body_is_cut_off(serve: "Serve") -> None:
    with serve("--body-seconds", "1") as running, running.connection() as client:
        client.settimeout(10)
        client.sendall(running.head(1000) + b"{")
        assert b" 408 " in client.recv(4096)


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
    assert service.wait(service.answers, 10)


def _allow_files(count: int) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"this machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
