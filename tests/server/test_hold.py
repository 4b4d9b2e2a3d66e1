"""One client must not be able to stop the service for the others: each way that once did."""

import json
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from sampan.core.types import ModelFiles
from sampan.server.storage.key_file import FileKeys
from sampan.server.storage.keys import Key, digest, key_id

if TYPE_CHECKING:
    from conftest import Running, Serve

MIB = 1 << 20
JSON = {"content-type": "application/json"}


def _complete(running: "Running", **changes: Any) -> httpx.Response:
    body = {"model": running.model, "prompt": "a", "max_tokens": 2, **changes}
    return httpx.post(f"{running.url}/v1/completions", json=body, timeout=60)


def _metric(running: "Running", name: str) -> float:
    lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _all_slots_are_free(running: "Running") -> bool:
    return _metric(running, "sampan:slots_free") == _metric(running, "sampan:slots")


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
    assert _complete(service).status_code == 200
    assert _wait(lambda: _all_slots_are_free(service), 10)
    assert _metric(service, "sampan:queue_unstuck_total") == 0


def test_more_answers_than_a_request_may_ask_for(service: "Running") -> None:
    answer = _complete(service, prompt=["a"] * 33, n=128)
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
    statuses = [_complete(service).status_code for _ in range(3)]
    assert statuses[0] in (200, 400, 503)
    assert statuses[1:] == [200, 200]


def test_the_key_comes_before_the_body(serve: "Serve", tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-that-is-long-enough-0123456789\n")
    keys.chmod(0o600)
    with serve("--api-key-file", str(keys)) as running, _connection(running) as client:
        client.settimeout(10)
        client.sendall(_head(30 * MIB))  # and nothing of the body
        assert client.recv(4096).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("length", [b"33554433", b"9" * 400, b"-1", b"1e3", b"x"])
def test_the_length_comes_before_the_body(service: "Running", length: bytes) -> None:
    with _connection(service) as client:
        client.settimeout(10)
        client.sendall(_head(0).replace(b"length: 0", b"length: " + length))
        assert client.recv(4096).split()[1] in (b"413", b"400")


def test_a_body_of_unknown_length_is_bounded(service: "Running") -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(64):
            yield b"a" * 65536

    answer = httpx.post(f"{service.url}/v1/completions", content=parts(), headers=JSON, timeout=60)
    assert answer.status_code == 413
    assert "content-length" in answer.json()["error"]["message"]


def test_headers_are_bounded(service: "Running") -> None:
    with _attention(service) as worst, _connection(service) as client:
        client.settimeout(10)
        client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
        line = b"x-long: " + b"a" * 1000 + b"\r\n"
        with suppress(OSError):
            for _ in range(20_000):
                client.sendall(line)
        with suppress(OSError):
            assert client.recv(4096).startswith(b"HTTP/1.1 431 ")
    assert worst["bytes"] < 20 * MIB


@pytest.mark.parametrize(
    "path", ["/" + "a" * 300, "a" * 4000, "/proc/1/root/x", "/etc/passwd", "/dev/zero", "/"]
)
@pytest.mark.parametrize("call", ["update_weights", "load_lora_adapter"])
def test_every_change_has_an_answer(administered: "Running", path: str, call: str) -> None:
    body = {"path": path} if call == "update_weights" else {"lora_name": "x", "lora_path": path}
    answer = httpx.post(f"{administered.url}/v1/{call}", json=body, timeout=20)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert "\n" not in message
    assert len(message) < 400
    assert "root:" not in message


@pytest.fixture(scope="module")
def administered(serve: "Serve") -> Iterator["Running"]:
    """A service that takes adapters; SIGTERM must end it at once though changes were refused."""
    with serve("--max-adapters", "1") as running:
        yield running
        started = time.monotonic()
    assert time.monotonic() - started < 10


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
        assert _complete(service).status_code == 200
        assert time.monotonic() - started < 3
        assert {each.result() for each in asked} <= {200, 400}
    assert _wait(lambda: _all_slots_are_free(service), 10)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example:8000"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": "a:b:c"}, 400),
        ({"host": "localhost"}, 200),
        ({"host": "LOCALHOST.:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "192.0.2.1"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
    ],
)
def test_only_its_own_names_are_answered(service: "Running", headers: dict[str, str], status: int) -> None:
    assert httpx.get(f"{service.url}/v1/models", headers=headers).status_code == status


def test_names_can_be_allowed(serve: "Serve") -> None:
    with serve("--allowed-host", "models.example", "--allowed-host", ".inner.example") as running:
        for host, status in (("models.example", 200), ("a.b.inner.example", 200), ("x.models.example", 421)):
            assert httpx.get(f"{running.url}/health", headers={"host": host}).status_code == status


@pytest.mark.parametrize("hosts", [b"", b"host: localhost\r\nhost: localhost\r\n"])
def test_a_missing_or_double_host_is_a_400(service: "Running", hosts: bytes) -> None:
    with _connection(service) as client:
        client.settimeout(10)
        client.sendall(b"GET /health HTTP/1.1\r\n" + hosts + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_closed_its_direction_is_answered(service: "Running") -> None:
    body = json.dumps({"model": service.model, "prompt": "a", "max_tokens": 40, "ignore_eos": True}).encode()
    with _connection(service) as client:
        client.settimeout(30)
        client.sendall(_head(len(body), "/v1/completions") + body)
        client.shutdown(socket.SHUT_WR)
        answer = _read(client)
    interim, _, rest = answer.partition(b"HTTP/1.1 200 ")
    assert interim in (b"", b"HTTP/1.1 100 Continue\r\n\r\n")
    assert b'"completion_tokens":40' in rest.replace(b" ", b"")


def test_a_client_that_has_gone_is_told_from_it(service: "Running") -> None:
    body = json.dumps(
        {"model": service.model, "prompt": "a", "max_tokens": 6000, "ignore_eos": True}
    ).encode()
    with _connection(service) as client:
        client.sendall(_head(len(body), "/v1/completions") + body)
        assert _wait(lambda: _metric(service, "vllm:num_requests_running") > 0, 10)
    assert _wait(lambda: _metric(service, "vllm:num_requests_running") == 0, 5)


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
        with _connection(running, receive_buffer=2048) as client:
            client.sendall(_head(len(content), "/v1/completions") + content)
            process = psutil.Process(running.pid)
            assert _wait(lambda: _metric(running, "vllm:generation_tokens_total") >= 64 * 20, 60)
            assert _wait(lambda: not _is_connected(process, client), 20)


def _is_connected(process: psutil.Process, client: socket.socket) -> bool:
    port = client.getsockname()[1]
    return any(each.raddr and each.raddr.port == port for each in process.net_connections("tcp"))


def test_ready_follows_the_engine_at_once(serve: "Serve") -> None:
    with serve() as running:
        assert _complete(running).status_code == 200
        for _ in range(5):
            [engine] = [
                child
                for child in psutil.Process(running.pid).children()
                if "sampan.server.process.worker" in child.cmdline()
            ]
            engine.kill()
            killed = time.monotonic()
            assert _wait(lambda: httpx.get(f"{running.url}/health").json()["engine"] == "starting", 5)
            ready = httpx.get(f"{running.url}/ready")
            if httpx.get(f"{running.url}/health").json()["engine"] == "starting":
                assert ready.status_code == 503
                assert ready.json()["last_token_s"] is None
            assert _wait(lambda: _complete(running).status_code == 200, 20)
            assert time.monotonic() - killed < 5  # each time: it had answered before


def test_what_was_asked_cannot_be_told_by_another_key(serve: "Serve", tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    first, second = (f"a-key-that-is-long-enough-{n}-0123456789" for n in "ab")
    keys.write_text(f"{first}\n{second}\n")
    keys.chmod(0o600)
    secret = "The password of the vault is a river of stones and paper. " * 8

    def cached(running: "Running", key: str, **more: Any) -> int:
        body = {"model": running.model, "prompt": secret, "max_tokens": 1, **more}
        headers = {"authorization": f"Bearer {key}"}
        answer = httpx.post(f"{running.url}/v1/completions", json=body, headers=headers, timeout=60)
        return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    with serve("--api-key-file", str(keys)) as running:
        assert [cached(running, first), cached(running, second)] == [0, 0]
        assert min(cached(running, first), cached(running, second)) > 0
        assert cached(running, first, cache_salt="mine") == 0
        assert cached(running, first, cache_salt="mine") > 0
    with serve("--api-key-file", str(keys), "--shared-cache") as running:
        assert cached(running, first) == 0
        assert cached(running, second) > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [1]}),
        (
            "/v1/messages/count_tokens",
            {"model": "smollm2-135m", "messages": [{"role": "user", "content": "a"}]},
        ),
    ],
)
def test_reading_tokens_counts_against_a_keys_rate(
    limited: tuple["Running", Callable[[], str]], path: str, body: dict[str, Any]
) -> None:
    running, key = limited
    headers = {"authorization": f"Bearer {key()}"}
    statuses = [httpx.post(running.url + path, json=body, headers=headers).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


@pytest.fixture(scope="module")
def limited(serve: "Serve", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service, and what makes keys for it that may ask twice a minute."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    book, numbers = FileKeys(file, create=True), count()

    def key() -> str:
        secret = f"a-key-that-is-long-enough-{next(numbers)}-0123456789"
        book.add(Key(id=key_id(secret), name="slow", requests_per_minute=2), digest(secret))
        return secret

    key()
    with serve("--api-key-file", str(file)) as running:
        yield running, key


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
                chat, body = f"{running.url}/v1/chat/completions", {"model": str(model), **said}
                asked.append(pool.submit(httpx.post, chat, json=body, timeout=60))
            time.sleep(2)
        assert worst["health_s"] < 1.0
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
        assert {each.result().status_code for each in asked} <= {400, 503}


def _read(client: socket.socket) -> bytes:
    answer = b""
    while part := client.recv(65536):
        answer += part
        if b"\r\n\r\n" in answer and answer.endswith(b"}"):
            break
    return answer


def _connection(running: "Running", receive_buffer: int | None = None) -> socket.socket:
    place = urlsplit(running.url)
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect((place.hostname, place.port))
    return client


def _head(length: int, path: str = "/v1/chat/completions") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()
