"""One rule for what a request brings that is not served: hints are told, the rest is refused by name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import anthropic
import anthropic.types.beta as of_anthropic
import httpx
import openai
import openai.types as of_openai
import pytest
from pydantic import BaseModel

from sampan.server import administration, rerank
from sampan.server.anthropic.schemas import (
    Message,
    MessagesRequest,
    OutputConfig,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from sampan.server.fields import Strict
from sampan.server.openai.embeddings import EmbeddingRequest
from sampan.server.openai.models import DetokenizeRequest, TokenizeRequest
from sampan.server.openai.responses_schemas import (
    CallItem,
    FunctionTool,
    MessageItem,
    ReasoningItem,
    ResponseRequest,
    ResultItem,
)
from sampan.server.openai.schemas import ChatMessage, ChatRequest, CompletionRequest

if TYPE_CHECKING:
    from conftest import Running

HI: Any = [{"role": "user", "content": "Hi"}]
HINTS = {
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "metadata": {"a": "b"},
    "user": "u",
    "store": True,
    "service_tier": "flex",
    "some_hint_of_next_year": {"a": [1]},
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI, "max_tokens": 1},
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 1, "store": False},
    "/v1/messages": {"messages": HI, "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": HI},
    "/tokenize": {"prompt": "a"},
}
KEPT_BY_RESPONSES = {"prompt_cache_key", "safety_identifier", "metadata", "user", "store"}
MODELS = [
    ChatRequest, CompletionRequest, ResponseRequest, MessagesRequest, EmbeddingRequest, TokenizeRequest,
    DetokenizeRequest, rerank.RerankRequest, administration.LoadAdapter,
]  # fmt: skip


def post(service: "Running", path: str, **fields: Any) -> httpx.Response:
    body = {"model": service.model, **BODIES[path], **fields}
    return httpx.post(service.url + path, json=body, timeout=60)


def told(answer: httpx.Response) -> set[str]:
    return set(filter(None, answer.headers.get("x-ignored-fields", "").split(", ")))


@pytest.mark.parametrize("path", BODIES)
def test_hints_are_taken_on_every_endpoint_and_told(service: "Running", path: str) -> None:
    answer = post(service, path, **HINTS)
    assert answer.status_code == 200, answer.text
    assert told(answer) == HINTS.keys() - (KEPT_BY_RESPONSES if path == "/v1/responses" else set())
    assert "x-ignored-fields" not in post(service, path).headers


@pytest.mark.parametrize("path", BODIES)
def test_null_is_absence(service: "Running", path: str) -> None:
    fields = dict.fromkeys(("tools", "stop", "audio", "functions", "min_tokens", "frobnicate", "temperature"))
    answer = post(service, path, **fields)
    assert answer.status_code == 200, answer.text
    assert not told(answer)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stream_tells_and_the_metrics_count_known_names_only(service: "Running", stream: bool) -> None:
    def counted() -> dict[str, float]:
        rows = httpx.get(f"{service.url}/metrics").text.splitlines()
        found = [row for row in rows if row.startswith("sampan:ignored_fields_total{")]
        return {row.split('field="')[1].split('"')[0]: float(row.split()[-1]) for row in found}

    before = counted()
    answer = post(service, "/v1/chat/completions", stream=stream, verbosity="low", **{"x y": 1})
    assert told(answer) == {"verbosity", "x_y"}
    more = {name: count - before.get(name, 0) for name, count in counted().items()}
    assert {name for name, count in more.items() if count} == {"verbosity", "other"}


@pytest.mark.parametrize(
    ("path", "fields", "param", "said"),
    [
        ("/v1/chat/completions", {"temprature": 0}, "temprature", "did you mean temperature?"),
        ("/v1/chat/completions", {"maxTokens": 3}, "maxTokens", "did you mean max_tokens?"),
        ("/v1/chat/completions", {"tool": []}, "tool", "did you mean tools?"),
        (
            "/v1/chat/completions",
            {"messages": [{**HI[0], "contents": "x"}]},
            "messages.0.contents",
            "content",
        ),
        ("/v1/chat/completions", {"functions": [{"name": "f"}]}, "functions", "tools"),
        ("/v1/chat/completions", {"modalities": ["text", "audio"]}, "modalities", "text only"),
        ("/v1/completions", {"mirostat": 2}, "mirostat", "not supported"),
        ("/v1/completions", {"suffix": "x"}, "suffix", "not supported"),
        ("/v1/responses", {"max_tokens": 3}, "max_tokens", "max_output_tokens"),
        ("/v1/responses", {"conversation": "c"}, "conversation", "not supported"),
        ("/v1/messages", {"output_format": {"type": "json_schema"}}, "output_format", "output_config.format"),
        ("/v1/messages", {"guided_json": {}, "seed": 1}, "seed", "not supported"),
        ("/v1/responses", {"structured_outputs": {"choice": ["a"]}}, "structured_outputs", "not supported"),
        ("/v1/messages", {"container": "c"}, "container", "not supported"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(
    service: "Running", path: str, fields: dict[str, Any], param: str, said: str
) -> None:
    answer = post(service, path, **fields)
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert message.startswith(f"{param}: ")
    assert said in message
    assert answer.json()["error"].get("param", param) == param


@pytest.mark.parametrize(
    "fields",
    [
        {"functions": [], "function_call": "none", "modalities": ["text"], "audio": None},
        {"mirostat": 0, "typical_p": 1.0, "dry_multiplier": 0.0, "repeat_penalty": 1.0, "n_probs": 0},
        {
            "skip_special_tokens": True,
            "add_generation_prompt": True,
            "use_beam_search": False,
            "min_tokens": 0,
        },
    ],
)
def test_what_asks_for_nothing_is_no_fault(service: "Running", fields: dict[str, Any]) -> None:
    answer = post(service, "/v1/chat/completions", **fields)
    assert answer.status_code == 200, answer.text
    assert not told(answer)


def test_every_field_that_may_be_left_out_may_be_null() -> None:
    refused = []
    for model in _models(*MODELS):
        for name, field in model.model_fields.items():
            if not field.is_required() and name != "type":
                try:
                    model.__pydantic_validator__.validate_assignment(model.model_construct(), name, None)
                except ValueError:
                    refused.append(f"{model.__name__}.{name}")
    assert not refused


def _models(*found: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """These, and all that their fields are made of."""
    rest, seen = list(found), set()
    while rest:
        part: Any = rest.pop()
        if isinstance(part, type) and issubclass(part, Strict) and part not in seen:
            seen.add(part)
            yield part
            rest += [field.annotation for field in part.model_fields.values()]
        rest += getattr(part, "__args__", ())


OFFICIAL: list[tuple[type[Strict], Any]] = [
    (ChatRequest, of_openai.chat.completion_create_params.CompletionCreateParamsBase),
    (ChatMessage, of_openai.chat.ChatCompletionAssistantMessageParam),
    (CompletionRequest, of_openai.completion_create_params.CompletionCreateParamsBase),
    (EmbeddingRequest, of_openai.EmbeddingCreateParams),
    (ResponseRequest, of_openai.responses.response_create_params.ResponseCreateParamsBase),
    (MessageItem, of_openai.responses.ResponseOutputMessageParam),
    (CallItem, of_openai.responses.ResponseFunctionToolCallParam),
    (ResultItem, of_openai.responses.response_input_item_param.FunctionCallOutput),
    (ReasoningItem, of_openai.responses.ResponseReasoningItemParam),
    (FunctionTool, of_openai.responses.FunctionToolParam),
    (MessagesRequest, of_anthropic.message_create_params.MessageCreateParamsBase),
    (Message, of_anthropic.BetaUserMessageParam),
    (TextBlock, of_anthropic.BetaTextBlockParam),
    (ThinkingBlock, of_anthropic.BetaThinkingBlockParam),
    (ToolUseBlock, of_anthropic.BetaToolUseBlockParam),
    (ToolResultBlock, of_anthropic.BetaToolResultBlockParam),
    (Tool, of_anthropic.BetaToolParam),
    (OutputConfig, of_anthropic.BetaOutputConfigParam),
]


@pytest.mark.parametrize(("ours", "theirs"), OFFICIAL)
def test_no_field_of_the_official_clients_is_a_surprise(ours: type[Strict], theirs: Any) -> None:
    """Each is served, or a known hint, or refused for a reason."""
    own = {field.alias or name for name, field in ours.model_fields.items()}
    assert get_type_hints(theirs).keys() - own - ours.hints - ours.lacked.keys() == set()


UNKNOWN_TYPE = {"type": "nonesuch"}
FORMS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": {
        "name": "n", "schema": UNKNOWN_TYPE}}}, "response_format"),
    ("/v1/chat/completions", {"guided_json": UNKNOWN_TYPE}, "guided_json"),
    ("/v1/completions", {"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
    ("/v1/responses", {"text": {"format": {"type": "json_schema", "name": "n", "schema": UNKNOWN_TYPE}}},
     "text.format"),
    ("/v1/messages", {"output_config": {"format": {"type": "json_schema", "schema": UNKNOWN_TYPE}}},
     "output_config.format"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "place"), FORMS)
def test_a_form_that_cannot_be_is_named_as_the_request_has_it(
    service: "Running", path: str, fields: dict[str, Any], place: str
) -> None:
    answer = post(service, path, **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"].startswith(f"{place}: ") if path == "/v1/messages" else error["param"] == place


def test_the_list_of_hints_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve-apis.md").read_text()
    listed = page.partition("## Fields that are passed over")[2].partition("## Agents")[0]
    names = {word.rsplit(".", 1)[-1] for word in re.findall(r"`([\w.]+)`", listed)}
    assert not {hint for model in _models(*MODELS) for hint in model.hints} - names


def test_an_answer_that_is_an_error_tells_too(service: "Running") -> None:
    for path, body in (("embeddings", {"input": "a"}), ("rerank", {"query": "a", "documents": ["b"]})):
        answer = httpx.post(f"{service.url}/v1/{path}", json={"model": service.model, **body, **HINTS})
        assert answer.json()["error"]["code"] == "unsupported_model"
        assert told(answer) == HINTS.keys()


def test_official_clients_send_their_hints(service: "Running") -> None:
    raw = service.openai.chat.completions.with_raw_response.create(
        model=service.model,
        messages=HI,
        max_completion_tokens=1,
        store=True,
        prediction={"type": "content", "content": "Hello"},
        verbosity="low",
        reasoning_effort="high",
        prompt_cache_retention="24h",
    )
    names = {"store", "prediction", "verbosity", "reasoning_effort", "prompt_cache_retention"}
    assert set(raw.headers["x-ignored-fields"].split(", ")) == names
    assert isinstance(raw.parse(), openai.types.chat.ChatCompletion)
    message = service.anthropic.messages.with_raw_response.create(
        model=service.model,
        max_tokens=9,
        messages=HI,
        thinking={"type": "enabled", "budget_tokens": 5},
        service_tier="auto",
        metadata={"user_id": "u"},
    )
    assert set(message.headers["x-ignored-fields"].split(", ")) == {"thinking", "service_tier", "metadata"}
    assert isinstance(message.parse(), anthropic.types.Message)
