"""What a service takes in while it runs, and what it says of itself."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sampan.core.types import ModelFiles
from sampan.server.errors import ApiError
from sampan.server.text import ModelText
from sampan.text.chat import ChatTemplate

if TYPE_CHECKING:
    from conftest import Running, Serve

_WITHIN_S = 5.0


@pytest.mark.parametrize("source", ["{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{% bad %}"])
def test_a_template_that_fails_is_told_with_what_a_client_can_do(model_text: ModelText, source: str) -> None:
    text = replace(model_text, template=ChatTemplate(source, bos="", eos=""))
    with pytest.raises(ApiError, match=r"/v1/completions") as caught:
        text.conversation([{"role": "user", "content": "Hi"}], (), {}, 99)
    assert "--" not in caught.value.message


def _keys(database: str, *words: str) -> Any:
    command = [sys.executable, "-m", "sampan", "keys", *words, "--database", database, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _status(running: "Running", key: str | None = None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.get(f"{running.url}/v1/models", headers=headers).status_code


def test_the_first_key_shuts_every_running_service(serve: "Serve", tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/keys.db"
    with serve("--database", database) as one, serve("--database", database) as other:
        assert _status(one) == _status(other) == 200
        assert {} in httpx.get(f"{one.url}/openapi.json").json()["paths"]["/v1/models"]["get"]["security"]
        with httpx.stream("POST", f"{one.url}/v1/completions", json=_long(one), timeout=60) as answer:
            key = _keys(database, "create", "first")
            for running in (one, other):
                assert running.wait(lambda running=running: _status(running) == 401, _WITHIN_S)
                assert _status(running, key["key"]) == 200
            # What was let in before is answered.
            assert list(answer.iter_lines())[-2] == "data: [DONE]"
        assert one.complete().status_code == 401
        admin = httpx.post(f"{one.url}/v1/update_weights", json={"path": "/none"})
        assert admin.status_code == 401
        operation = httpx.get(f"{one.url}/openapi.json").json()["paths"]["/v1/models"]["get"]
        assert {} not in operation["security"]
        _keys(database, "revoke", key["id"])
        for running in (one, other):
            assert running.wait(lambda running=running: _status(running, key["key"]) == 401, _WITHIN_S)
            assert _status(running) == 401  # without any valid key it stays shut
        second = _keys(database, "create", "second")["key"]
        assert all(one.wait(lambda r=r: _status(r, second) == 200, _WITHIN_S) for r in (one, other))
    assert "clients must show" in "".join(one.logs)


def _long(running: "Running") -> dict[str, Any]:
    return {"model": running.model, "prompt": "a", "max_tokens": 100, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def small(serve: "Serve", default_model: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The default model as a file of one's own, with a context of 512 tokens."""
    path = tmp_path_factory.mktemp("models") / "Own.v2-Q4_1.gguf"
    path.symlink_to(default_model.path)
    with serve("--context", "512", "--cors-origin", "http://localhost:*", name=str(path)) as running:
        running.model = "Own.v2-Q4_1"
        yield running


def test_a_path_is_no_name(small: "Running") -> None:
    assert [row["id"] for row in httpx.get(f"{small.url}/v1/models").json()["data"]] == [small.model]
    assert small.complete().json()["model"] == small.model
    names = re.findall(r'model_name="([^"]*)"', httpx.get(f"{small.url}/metrics").text)
    assert set(names) == {small.model}
    assert f"{small.model} is served at" in "".join(small.logs)


def test_a_prompt_that_fills_the_context_has_no_answer(small: "Running") -> None:
    for length, status in ((512, 400), (511, 200)):
        answer = small.complete(prompt=[20] * length, max_tokens=None)
        assert answer.status_code == status
    assert answer.json()["usage"]["completion_tokens"] == 1
    full = small.complete(prompt=[[20], [20] * 512]).json()["error"]
    assert full["code"] == "context_length_exceeded"
    assert "512 tokens, the context holds 512 with the answer" in full["message"]
    scored = small.complete(prompt=[20] * 512, max_tokens=0, echo=True, logprobs=0).json()
    assert len(scored["choices"][0]["logprobs"]["token_logprobs"]) == 512


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_nor_has_a_conversation(small: "Running", path: str) -> None:
    def message(words: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": "word " * words}]

    count = httpx.post(f"{small.url}/tokenize", json={"messages": message(1)}).json()["count"]
    for words, status in ((513 - count, 400), (512 - count, 200)):
        said = message(words)
        assert (
            httpx.post(f"{small.url}/tokenize", json={"messages": said}).json()["count"] == words + count - 1
        )
        field = "input" if path == "responses" else "messages"
        body = {"model": small.model, field: said, **({"max_tokens": 5} if path == "messages" else {})}
        answer = httpx.post(f"{small.url}/v1/{path}", json=body, timeout=60)
        assert answer.status_code == status, answer.text


def test_a_page_of_any_port_may_call_where_it_is_named(small: "Running") -> None:
    for origin, allowed in (
        ("http://localhost:5173", True),
        ("http://localhost", True),
        ("https://localhost:5173", False),
        ("http://localhost.evil.example:5173", False),
    ):
        headers = {"origin": origin, "access-control-request-method": "POST"}
        answer = httpx.options(f"{small.url}/v1/completions", headers=headers)
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
