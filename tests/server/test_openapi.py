"""The OpenAPI document is true: what is sent along it, or against it, is answered as it says.

`SAMPAN_EXAMPLES=1000` sends so many requests to each endpoint instead of a few, and others every time.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

if TYPE_CHECKING:
    from conftest import Running, Serve

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
MODEL = "smollm2-135m"
ASKING = ["create_chat_completion", "create_completion", "create_response", "create_message"]
TAKING = [
    *ASKING, "create_embeddings", "create_rerank", "tokenize", "detokenize", "count_tokens", "usage",
    "list_input_items", "load_adapter", "unload_adapter", "update_weights",
]  # fmt: skip
OPERATIONS = [
    *TAKING, "show_response", "delete_response", "list_models", "show_model", "live", "health", "ready",
    "metrics",
]  # fmt: skip
HOW = ["as it is", "sensible", "plain"]
LONGEST = ("max_tokens", "max_completion_tokens", "max_output_tokens")
HEADERS = {"content-type": "application/json"}
MANY = 40_000
UNKNOWN = {f"field{n}": n for n in range(MANY)}


def _bounded(attack: Callable[..., None]) -> Callable[[], None]:
    examples = int(os.environ.get("SAMPAN_EXAMPLES", "0"))
    many: dict[str, Any] = {"max_examples": examples or 8, "derandomize": not examples, "database": None}
    few = settings(**many, deadline=None, suppress_health_check=list(HealthCheck))
    bounded: Callable[[], None] = few(attack)
    return bounded


@pytest.fixture(scope="module")
def document(service: "Running") -> dict[str, Any]:
    return _document(service)


@pytest.fixture(scope="module")
def schema(service: "Running") -> Any:
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


def _document(running: "Running") -> dict[str, Any]:
    document: dict[str, Any] = httpx.get(f"{running.url}/openapi.json").json()
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method, path, operation


def _sensible(body: Any, name: str) -> None:
    """Make what fits the document fit the service too: its model, a question, no long answer."""
    body["model"] = MODEL
    for message in body.get("messages") or ():
        message["content"] = message.get("content") or "Hi"
        if name.startswith("create_chat"):
            message |= {"role": "user", "tool_calls": None}
        elif isinstance(message["content"], list):
            message["content"] = "Hi"
    if body.get("messages"):
        body["messages"][-1]["role"] = "user"
    for needs, needed in (("stream_options", "stream"), ("top_logprobs", "logprobs")):
        if not body.get(needed):
            body.pop(needs, None)
    if body.get("grammar"):
        body.pop("response_format", None)


def _plain(body: dict[str, Any]) -> None:
    """Without what the model's vocabulary, or the rules of its grammars, must allow."""
    fields = "grammar response_format text output_config tools tool_choice logit_bias chat_template_kwargs"
    for field in fields.split():
        body.pop(field, None)


def _shorten(body: dict[str, Any]) -> None:
    """Ask for no more than two answers of four tokens, wherever the body says how many."""
    for field in LONGEST:
        if isinstance(body.get(field), int | float):
            body[field] = max(1, min(4, body[field]))
    if not any(body.get(field) for field in LONGEST):
        field = "max_output_tokens" if "input" in body else "max_tokens"
        body[field] = 4
    if isinstance(body.get("n"), int | float):
        body["n"] = min(2, body["n"])


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_fits_the_document_is_answered_as_it_says(schema: Any, name: str) -> None:
    @_bounded
    @given(
        case=schema.find_operation_by_id(name).as_strategy(GenerationMode.POSITIVE), how=st.sampled_from(HOW)
    )
    def attack(case: Case, how: str) -> None:
        if isinstance(case.body, dict):
            if how != "as it is":
                _sensible(case.body, name)
            if how == "plain":
                _plain(case.body)
            if name in ASKING:
                _shorten(case.body)
        case.call_and_validate(checks=CHECKS, timeout=60)

    attack()


@pytest.mark.parametrize("name", TAKING)
def test_what_does_not_fit_the_document_is_refused(schema: Any, name: str) -> None:
    @_bounded
    @given(case=schema.find_operation_by_id(name).as_strategy(GenerationMode.NEGATIVE))
    def attack(case: Case) -> None:
        case.call_and_validate(checks=[*CHECKS, negative_data_rejection], timeout=60)

    attack()


def test_the_document_names_every_endpoint(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in _operations(document)]
    assert sorted(names) == sorted(OPERATIONS)


def test_a_422_is_never_promised(document: dict[str, Any]) -> None:
    assert all("422" not in operation["responses"] for _, _, operation in _operations(document))
    assert not {"HTTPValidationError", "ValidationError"} & document["components"]["schemas"].keys()


def test_errors_have_the_form_of_their_api(document: dict[str, Any]) -> None:
    for _, path, operation in _operations(document):
        form = "MessagesError" if path.startswith("/v1/messages") else "ErrorBody"
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and path != "/ready":
                reference = answer["content"]["application/json"]["schema"]["$ref"]
                assert reference == f"#/components/schemas/{form}"


def test_what_may_be_streamed_says_so(document: dict[str, Any]) -> None:
    for _, _, operation in _operations(document):
        forms = operation["responses"]["200"]["content"].keys()
        assert ("text/event-stream" in forms) == (operation["operationId"] in ASKING)


def test_a_key_is_asked_for_where_the_document_says(serve: "Serve", tmp_path: Path) -> None:
    file = str(tmp_path / "keys")
    subprocess.run([sys.executable, "-m", "sampan", "keys", "create", "a", "--file", file], check=True)
    with serve("--api-key-file", file) as running:
        document = _document(running)
        assert document["components"]["securitySchemes"].keys() == {"bearer", "x-api-key", "api-key"}
        for method, path, operation in _operations(document):
            answer = httpx.request(method, running.url + path)
            assert (answer.status_code == 401) == ("401" in operation["responses"]), path
            ways = [{"bearer": []}, {"x-api-key": []}, {"api-key": []}]
            asked = ways if answer.status_code == 401 else None
            assert operation.get("security") == asked, path


def test_without_keys_none_is_needed(document: dict[str, Any]) -> None:
    for _, _, operation in _operations(document):
        assert {} in operation.get("security", [{}])


def _chat(**rest: Any) -> tuple[str, dict[str, Any]]:
    return "chat/completions", {"messages": [{"role": "user", "content": "Hi"}], **rest}


def _said(content: Any, **rest: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **rest}


def _items(**item: Any) -> tuple[str, dict[str, Any]]:
    return "responses", {"input": [item]}


FUNCTION = {"type": "function", "function": {}}
WRONG: list[tuple[tuple[str, dict[str, Any]], str]] = [
    (("chat/completions", _said([{"type": "text"}])), "messages.0.content.0.text"),
    (("chat/completions", _said(5)), "messages.0.content"),
    (_chat(stop=["a", 5]), "stop.1"),
    (_chat(stop=5), "stop"),
    (_chat(tool_choice=FUNCTION), "tool_choice.function.name"),
    (_chat(response_format={"type": "json_schema"}), "response_format.json_schema"),
    (_chat(response_format={"type": "xml"}), "response_format.type"),
    (_chat(logit_bias={"9" * 5000: 1}), "logit_bias"),
    (("completions", {"prompt": [[1], ["a"]]}), "prompt.1.0"),
    (("completions", {"prompt": [10**400]}), "prompt"),
    (_items(type="message", role="user", content="x", contents=1), "input.0.contents"),
    (_items(role="user", content="x", images=["x"]), "input.0.images"),
    (_items(type="function_call", call_id="1", arguments="{}"), "input.0.name"),
    (("responses", {"input": "x", "text": {"format": {"type": "text", "Type": 1}}}), "text.format.Type"),
    (("messages", _said([{"type": "text", "text": "x", "texts": "x"}])), "messages.0.content.0.texts"),
    (("messages", _said([{"type": "text", "text": 5}])), "messages.0.content.0.text"),
    (("messages", _said("x", thinking={"type": "disabled", "types": {}})), "thinking.types"),
]


@pytest.mark.parametrize(("asked", "field"), WRONG)
def test_an_error_names_the_field_as_the_client_wrote_it(
    service: "Running", asked: tuple[str, dict[str, Any]], field: str
) -> None:
    path, body = asked
    most = {"max_tokens": 1} if path == "messages" else {}
    answer = httpx.post(f"{service.url}/v1/{path}", json={"model": MODEL, **most, **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    if path == "messages":
        assert field in error["message"].replace(":", "").split()
    else:
        assert error["param"] == field


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize"]
)
@pytest.mark.parametrize(
    "value", [b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b'{"\\udfff": 1}', b"\xff", b'"\xed\xa0\x80"']
)
def test_what_is_no_json_is_refused_wherever_it_stands(service: "Running", path: str, value: bytes) -> None:
    answer = httpx.post(service.url + path, content=b'{"model": "x", "user": %b}' % value, headers=HEADERS)
    assert answer.status_code == 400
    assert "the body is no JSON" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/detokenize", {"tokens": [""] * MANY}, "tokens.0:"),
        ("/v1/completions", {"model": MODEL, "prompt": [{}] * MANY}, "prompt.0:"),
        ("/v1/chat/completions", {"model": MODEL, "messages": [{}] * MANY}, "messages.0.role "),
        ("/v1/responses", {"model": MODEL, "input": [{}] * MANY}, "input.0.role "),
        ("/v1/messages", {"model": MODEL, "messages": [{}] * MANY}, " missing"),
        ("/v1/messages/count_tokens", {"model": MODEL, **_said("Hi", **UNKNOWN)}, "100 fields"),
    ],
)
def test_a_body_full_of_errors_costs_no_more_than_one(
    service: "Running", path: str, body: dict[str, Any], said: str
) -> None:
    process = psutil.Process(service.pid)
    before = process.memory_info().rss
    answer = httpx.post(service.url + path, json=body, timeout=60)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert process.memory_info().rss - before < 100 << 20


def test_json_that_only_looks_strange_is_taken(service: "Running") -> None:
    text = json.dumps(
        {"prompt": "\U0001f600 \\ud800 " + "7" * 400 + " 1e999"}
    )  # its emoji is a surrogate pair
    answer = httpx.post(f"{service.url}/tokenize", content=text, headers=HEADERS)
    assert answer.status_code == 200
    back = httpx.post(f"{service.url}/detokenize", json={"tokens": answer.json()["tokens"]})
    assert back.json()["prompt"] == json.loads(text)["prompt"]


def test_a_body_that_is_not_marked_as_json_is_a_400_that_says_so(service: "Running") -> None:
    answer = httpx.post(f"{service.url}/tokenize", content=b'{"prompt": "x"}')
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_tokens_of_another_model_are_a_404(service: "Running", path: str) -> None:
    given: dict[str, Any] = {"tokens": [1]} if path == "/detokenize" else {"prompt": "x"}
    answer = httpx.post(service.url + path, json={"model": "another", **given})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")
