"""Endpoints, as they answer and as they fail: over real HTTP."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sampan.core.errors import RequestError, UsageError
from sampan.core.types import SamplingParams
from sampan.evals import endpoint
from sampan.evals.asker import Answered
from sampan.evals.endpoint import Endpoint, Place

OPENAI = {
    "choices": [{"message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}
ANTHROPIC = {
    "content": [{"type": "thinking", "thinking": "2 + 2"}, {"type": "text", "text": "four"}],
    "stop_reason": "max_tokens",
    "usage": {"input_tokens": 4, "cache_read_input_tokens": 3, "output_tokens": 2},
}
Reply = tuple[int, dict[str, str], object]


class Server(ThreadingHTTPServer):
    """Gives the replies in turn, the last one for ever."""

    daemon_threads = True
    replies: list[Reply]
    seen: list[tuple[str, dict[str, str], Any, float]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((self.path, dict(self.headers), body, time.monotonic()))
        replies = self.server.replies
        status, headers, value = replies.pop(0) if len(replies) > 1 else replies[0]
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*replies: Reply) -> Server:
        server = Server(("127.0.0.1", 0), Handler)
        server.replies, server.seen = list(replies), []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_later", lambda _attempt: 0.01)


def ask(url: str, api: Any = None, count: int = 1, **options: Any) -> list[Answered]:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    sampling = SamplingParams(temperature=0.5, max_tokens=9, seed=3)

    async def all_of_them() -> list[Answered]:
        asked = Endpoint(Place.of(url, api), "some-model", **options)
        try:
            return await asyncio.gather(*(asked.ask(messages, sampling) for _ in range(count)))
        finally:
            await asked.close()

    return asyncio.run(all_of_them())


def test_openai_is_asked_and_read(serve: Callable[..., Server]) -> None:
    server = serve((200, {}, OPENAI))
    (found,) = ask(server.url, key="secret")
    assert (found.text, found.finish_reason, found.prompt_tokens, found.tokens) == ("four", "stop", 7, 2)
    path, headers, body, _ = server.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer secret"
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("some-model", 9, 0.5, 3)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def test_anthropic_is_asked_and_read(serve: Callable[..., Server]) -> None:
    server = serve((200, {}, ANTHROPIC))
    (found,) = ask(f"{server.url}/v1/messages", key="secret")
    assert (found.text, found.reasoning, found.finish_reason) == ("four", "2 + 2", "length")
    assert (found.prompt_tokens, found.tokens) == (7, 2)
    _, headers, body, _ = server.seen[0]
    assert headers["x-api-key"] == "secret"
    assert body["system"] == "Be brief."
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_who_is_busy_is_asked_again(serve: Callable[..., Server]) -> None:
    server = serve((503, {}, {}), (529, {}, {}), (200, {}, OPENAI))
    assert ask(server.url)[0].text == "four"
    assert len(server.seen) == 3


def test_who_says_when_is_asked_no_sooner_by_anyone(serve: Callable[..., Server]) -> None:
    server = serve((429, {"retry-after": "0.4"}, {}), (200, {}, OPENAI))
    assert len(ask(server.url, count=3)) == 3
    first, *others = [when for *_, when in server.seen]
    again = max(others)
    assert again - first >= 0.39


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_is_refused_is_not_asked_again(serve: Callable[..., Server], status: int) -> None:
    server = serve((status, {}, {"error": {"message": "no such model"}}))
    with pytest.raises(RequestError, match=rf"{status}.*no such model"):
        ask(server.url)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "value", [b"<html>hello</html>", {}, {"choices": []}, {"choices": [{}]}, [], {"choices": "x"}, 7]
)
def test_nonsense_is_told_with_what_was_said(serve: Callable[..., Server], value: object) -> None:
    server = serve((200, {}, value))
    with pytest.raises(RequestError, match=f"127.0.0.1:{server.server_port}"):
        ask(server.url)


def test_who_does_not_answer_is_told(serve: Callable[..., Server]) -> None:
    server = serve((200, {}, OPENAI))
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(RequestError, match="no answer in 8 attempts"):
        ask(url)


@pytest.mark.parametrize(
    ("given", "api", "url"),
    [
        ("http://a:8000", None, "http://a:8000/v1/chat/completions"),
        ("http://a:8000/v1/", None, "http://a:8000/v1/chat/completions"),
        ("https://a/openai/deployments/x", None, "https://a/openai/deployments/x/chat/completions"),
        ("https://a/v1/chat/completions", None, "https://a/v1/chat/completions"),
        ("https://a", "anthropic", "https://a/v1/messages"),
        ("https://a/v1/messages", None, "https://a/v1/messages"),
    ],
)
def test_urls_are_taken_as_people_have_them(given: str, api: Any, url: str) -> None:
    assert Place.of(given, api).url == url


@pytest.mark.parametrize("given", ["a:8000", "ftp://a", "http://", ""])
def test_what_is_no_url_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="endpoint"):
        Place.of(given)


def test_two_apis_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="anthropic"):
        Place.of("https://a/v1/messages", "openai")
