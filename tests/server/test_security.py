"""Keys that are wrong, and a service that must not tell, run or open what it should not."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest

from sampan.server.storage.key_file import FileKeys
from sampan.server.storage.keys import Key, digest, key_id

if TYPE_CHECKING:
    from conftest import Running, Serve

ASKED: Any = [{"role": "user", "content": "Hi"}]
FAKE = "sk-sampan-0123456789abcdef-" + "x" * 43


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A file with three keys: one good, one revoked, one with limits."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    made = {name: _create(name, file, *options) for name, options in {
        "good": (), "revoked": (), "slow": ("--requests-per-minute", "2"),
    }.items()}  # fmt: skip
    return {"file": file, **made}


def _create(name: str, file: Path, *options: str) -> str:
    return str(_keys("create", name, "--file", str(file), *options)["key"])


def _keys(*words: str) -> Any:
    import json

    done = subprocess.run(
        [sys.executable, "-m", "sampan", "keys", *words, "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[0])


@pytest.fixture(scope="module")
def guarded(serve: "Serve", keys: dict[str, Any]) -> Any:
    with serve("--api-key-file", str(keys["file"]), "--cors-origin", "https://friend.example") as running:
        yield running


def _ask(running: "Running", key: str | None) -> Any:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=key or "none", max_retries=0)
    with client:
        return client.chat.completions.create(model=running.model, messages=ASKED, max_tokens=1)


def test_a_key_opens_both_apis(guarded: "Running", keys: dict[str, Any]) -> None:
    assert _ask(guarded, keys["good"]).choices
    with anthropic.Anthropic(base_url=guarded.url, api_key=keys["good"], max_retries=0) as client:
        assert client.messages.create(model=guarded.model, messages=ASKED, max_tokens=1).content


@pytest.mark.parametrize("key", [FAKE, "wrong", "", "sk-sampan-", "x" * 100_000, "\u00e9"])
def test_a_wrong_key_is_a_401_that_does_not_repeat_it(guarded: "Running", key: str) -> None:
    headers = {"authorization": f"Bearer {key or 'none'}".encode()}
    answer = httpx.get(f"{guarded.url}/v1/models", headers=headers)
    if len(key) > 60_000:
        assert answer.status_code in (400, 401, 431)
        return
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not key or key not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"), ("GET", "/v1/usage"), ("GET", "/page/live"), ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"), ("POST", "/v1/responses"), ("POST", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"), ("POST", "/v1/embeddings"), ("POST", "/v1/rerank"),
        ("POST", "/tokenize"), ("POST", "/detokenize"), ("GET", "/v1/responses/resp_1"),
    ],
)  # fmt: skip
def test_nothing_is_open_without_a_key(guarded: "Running", method: str, path: str) -> None:
    assert httpx.request(method, f"{guarded.url}{path}", json={}).status_code == 401


def test_a_revoked_key_is_refused_at_once(guarded: "Running", keys: dict[str, Any]) -> None:
    assert _ask(guarded, keys["revoked"]).choices
    name = keys["revoked"].split("-")[2]
    _keys("revoke", name, "--file", str(keys["file"]))
    with pytest.raises(openai.AuthenticationError):
        _ask(guarded, keys["revoked"])
    assert _ask(guarded, keys["good"]).choices


def test_a_limit_is_a_429_that_says_when(guarded: "Running", keys: dict[str, Any]) -> None:
    for _ in range(2):
        _ask(guarded, keys["slow"])
    with pytest.raises(openai.RateLimitError, match="2 requests a minute") as caught:
        _ask(guarded, keys["slow"])
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert _ask(guarded, keys["good"]).choices


def test_no_key_is_logged(guarded: "Running", keys: dict[str, Any]) -> None:
    _ask(guarded, keys["good"])
    httpx.get(f"{guarded.url}/v1/models?api_key={keys['good']}", headers={"x-api-key": FAKE})
    logs = "".join(guarded.logs)
    assert "chat/completions" in logs
    for name in ("good", "revoked", "slow"):
        assert keys[name] not in logs
        assert keys[name].rsplit("-", 1)[1] not in logs
    assert FAKE not in logs


def test_other_pages_may_not_call_unless_named(guarded: "Running", service: "Running") -> None:
    def allowed(running: "Running", origin: str) -> str | None:
        headers = {"origin": origin, "access-control-request-method": "POST"}
        answer = httpx.options(f"{running.url}/v1/chat/completions", headers=headers)
        return answer.headers.get("access-control-allow-origin")

    assert allowed(service, "https://evil.example") is None
    assert allowed(guarded, "https://evil.example") is None
    assert allowed(guarded, "https://friend.example") == "https://friend.example"


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/page/../../../etc/passwd", "/page/%2e%2e/%2e%2e/app.py"]
)
def test_no_file_beside_the_page_is_served(service: "Running", path: str) -> None:
    import socket
    from urllib.parse import urlsplit

    place = urlsplit(service.url)
    with socket.create_connection((place.hostname or "", place.port or 80)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        head = client.recv(4096)
    assert head.split()[1] == b"404"


@pytest.mark.parametrize(
    "text",
    ["{{ 7 * 7 }}", "{% for m in messages %}{{ m }}{% endfor %}", "{{ ''.__class__.__mro__ }}", "<|im_end|>"],
)
def test_a_message_is_no_template(service: "Running", text: str) -> None:
    body: Any = {"messages": [{"role": "user", "content": text}]}
    ids: Any = service.openai.post("/../tokenize", cast_to=object, body=body)
    prompt: Any = service.openai.post("/../detokenize", cast_to=object, body={"tokens": ids["tokens"]})
    assert f"user\n{text}" in prompt["prompt"]


def test_template_variables_cannot_replace_the_messages(service: "Running") -> None:
    with pytest.raises(openai.BadRequestError, match="chat_template_kwargs"):
        service.openai.chat.completions.create(
            model=service.model,
            messages=ASKED,
            max_tokens=1,
            extra_body={"chat_template_kwargs": {"messages": [], "bos_token": "x"}},
        )


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "file:///etc/passwd"},
        {"$ref": "http://127.0.0.1:1/schema"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "string", "pattern": "(a+)+" * 50},
        {"type": "array", "minItems": 2_000_000_000},
    ],
)
def test_a_hostile_schema_harms_nobody(service: "Running", schema: Any) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    with suppress(openai.BadRequestError):
        service.openai.chat.completions.create(
            model=service.model, messages=ASKED, response_format=form, max_tokens=8
        )
    assert service.openai.chat.completions.create(model=service.model, messages=ASKED, max_tokens=1).choices


def test_the_network_needs_keys() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sampan", "serve", "--host", "0.0.0.0", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "--api-key-file" in done.stderr


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
