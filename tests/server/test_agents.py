"""Agents as they come: what Claude Code and Codex send first, rebuilt by its shape, and then with history.

The shapes are those of claude-cli 2.1.197 and codex-cli 0.171.0, with texts and tools made short.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import anthropic
import httpx
import pytest
from anthropic import beta_tool

from sampan.core.types import SamplingParams
from sampan.server.ask import CallPart, Part, Usage
from sampan.server.openai.responses_asks import shortened, template_messages
from sampan.server.openai.responses_events import Reply
from sampan.server.openai.responses_schemas import ResponseRequest
from sampan.server.openai.sealed import sealed, unsealed

if TYPE_CHECKING:
    from conftest import Running

CACHED = {"cache_control": {"type": "ephemeral"}}
BETAS = (
    "claude-code-20250219,context-1m-2025-08-07,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
    "prompt-caching-scope-2026-01-05,mid-conversation-system-2026-04-07,effort-2025-11-24"
)
SCHEMA = {"type": "object", "properties": {"command": {"enum": ["echo hi"]}}, "required": ["command"],
          "additionalProperties": False}  # fmt: skip
CLAUDE_CODE = {
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "<system-reminder>Today is Thursday.</system-reminder>"},
            {"type": "text", "text": "say hello", **CACHED},
        ]},
        {"role": "system", "content": "Available agent types for the Agent tool:\n- claude"},
    ],
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197"},
        {"type": "text", "text": "You are an agent.", **CACHED},
    ],
    "tools": [
        {"name": "Bash", "input_schema": SCHEMA, "eager_input_streaming": True},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    ],
    "metadata": {"user_id": '{"device_id":"0","account_uuid":"","session_id":"0"}'},
    "max_tokens": 8,
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "stream": True,
}  # fmt: skip
CLAUDE_CODE_THEN = [
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm", "signature": "unsigned"},
        {"type": "tool_use", "id": "call_1", "name": "Bash", "input": {"command": "echo hi"}},
    ]},
    {"role": "user", "content": [
        {"tool_use_id": "call_1", "type": "tool_result", "content": "hi", "is_error": False, **CACHED},
    ]},
]  # fmt: skip


def _item(role: str, text: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "id": f"msg_{role}", "role": role, "content": content}


FUNCTION = {"type": "function", "name": "exec_command", "description": "Runs a command.", "strict": False,
            "parameters": SCHEMA}  # fmt: skip
CODEX: dict[str, Any] = {
    "input": [
        _item("developer", "You are a coding agent."),
        _item("developer", "Filesystem sandboxing is on."),
        _item("user", "<environment_context></environment_context>"),
        _item("user", "say hello"),
    ],
    "tools": [
        FUNCTION,
        {
            "type": "namespace",
            "name": "mcp__dict",
            "description": "",
            "tools": [{**FUNCTION, "name": "lookup"}, {"type": "custom", "name": "patch"}],
        },
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "k",
    "client_metadata": {"session_id": "s"},
}
CODEX_THEN: list[dict[str, Any]] = [
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed("hm")},
    {"type": "message", "status": "completed", "id": "msg_1", "role": "assistant",
     "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]},
    {"type": "function_call", "status": "completed", "id": "fc_1", "name": "exec_command",
     "arguments": '{"command": "echo hi"}', "call_id": "call_1"},
    {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "hi\n"},
]  # fmt: skip


def post(service: "Running", path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(service.url + path, json={"model": service.model, **body}, headers=headers, timeout=60)


@pytest.mark.parametrize("then", [[], CLAUDE_CODE_THEN])
def test_claude_code(service: "Running", then: list[Any]) -> None:
    body = {**CLAUDE_CODE, "messages": [*CLAUDE_CODE["messages"], *then]}  # type: ignore[misc]
    headers = {"anthropic-beta": BETAS, "anthropic-version": "2023-06-01", "x-app": "cli"}
    answer = post(service, "/v1/messages?beta=true", body, **headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-fields"].split(", ") == [
        "context_management", "metadata", "output_config.effort", "tools.eager_input_streaming",
        "tools.web_search_20250305",
    ]  # fmt: skip
    assert "event: message_stop" in answer.text
    assert '"citations"' not in answer.text


@pytest.mark.parametrize("then", [[], CODEX_THEN])
def test_codex(service: "Running", then: list[Any]) -> None:
    body = {**CODEX, "input": [*CODEX["input"], *then], "max_output_tokens": 8}
    answer = post(service, "/v1/responses", body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-fields"].split(", ") == [
        "client_metadata", "reasoning.summary", "tools.tools.custom", "tools.web_search",
    ]  # fmt: skip
    last = json.loads(answer.text.rsplit("data: ", 1)[1])["response"]
    assert last["status"] in ("completed", "incomplete")
    assert [tool["name"] for tool in last["tools"]] == ["exec_command", "mcp__dict"]


def test_a_function_of_a_namespace_is_called_by_its_name_and_goes_back(service: "Running") -> None:
    asked: Any = {"model": service.model, "tools": CODEX["tools"], "store": False, "temperature": 0}
    choice: Any = {"type": "function", "name": "mcp__dict__lookup"}
    limits: Any = {"max_output_tokens": 60, "parallel_tool_calls": False}
    with service.openai.responses.stream(input="Look.", tool_choice=choice, **asked, **limits) as stream:
        [call] = stream.get_final_response().output
    assert call.type == "function_call"
    assert (call.name, call.namespace) == ("lookup", "mcp__dict")
    result = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": [{"type": "input_text", "text": "x"}],
    }
    items: Any = [_item("user", "Look."), call.to_dict(), result]
    prompt = template_messages(None, items)
    assert prompt[1]["tool_calls"][0]["function"]["name"] == "mcp__dict__lookup"
    again = service.openai.responses.create(input=items, tool_choice="none", max_output_tokens=1, **asked)
    assert again.usage is not None


def test_reasoning_is_sealed_and_given_back(model_text: Any, played: Any, canned: Callable[..., str]) -> None:
    import asyncio

    import openai

    body = ResponseRequest.model_validate({"model": "m", "input": "Hi", "include": CODEX["include"]})
    parts = [Part(0, reasoning="Two "), Part(0, reasoning="cities: é."), Part(0, text="Yes.", finish="stop")]

    async def frames() -> list[bytes]:
        reply = Reply(body, SamplingParams(), model_text, None)
        return [frame async for frame in reply.frames(played(parts), Usage(3))]

    with (
        openai.OpenAI(base_url=canned(asyncio.run(frames())), api_key="none") as client,
        client.responses.stream(model="m", input="Hi") as stream,
    ):
        thought = stream.get_final_response().output[0]
    assert thought.type == "reasoning"
    assert thought.encrypted_content is not None
    assert "cities" not in thought.encrypted_content
    back = {"type": "reasoning", "summary": [], "encrypted_content": thought.encrypted_content}
    [row] = template_messages(None, [back])
    assert row["reasoning_content"] == "Two cities: é."


@pytest.mark.parametrize("foreign", ["gAAAAABo", "sampan1.!", "sampan1.gAAAAAB=", "sampan2.aGk="])
def test_what_others_have_sealed_is_passed_over(foreign: str) -> None:
    assert unsealed(foreign) is None
    item = {"type": "reasoning", "summary": [], "encrypted_content": foreign}
    assert template_messages(None, [item, _item("user", "Hi")]) == [{"role": "user", "content": "Hi"}]


def test_a_tool_runner_goes_on_without_a_thread_that_is_kept(service: "Running") -> None:
    asked = []

    @beta_tool
    def weather(city: Literal["Paris"]) -> str:
        """The weather of a city."""
        asked.append(city)
        return "rain"

    seen: list[Any] = []
    with anthropic.Anthropic(
        base_url=service.url,
        api_key="none",
        max_retries=0,
        http_client=anthropic.DefaultHttpxClient(event_hooks={"response": [seen.append]}),
    ) as client:
        runner = client.beta.messages.tool_runner(
            model=service.model,
            max_tokens=60,
            tools=[weather],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            max_iterations=3,
            messages=[{"role": "user", "content": "The weather in Paris?"}],
            extra_body={"temperature": 0},
        )
        messages = list(runner)
    assert [message.stop_reason for message in messages] == ["tool_use"] * 3
    assert len(asked) >= 2
    assert "thread" in seen[0].headers["x-ignored-fields"]
    lost = next(answer for answer in seen if answer.status_code == 404)
    assert lost.json()["error"]["details"] == {"error_code": "thread_not_found"}


def test_a_conversation_that_is_too_long_loses_what_is_oldest(service: "Running") -> None:
    long = [_item("user", "word " * count) for count in (9000, 50, 100, 100)]
    asked: Any = {
        "model": service.model,
        "input": [_item("developer", "Be brief."), *long, _item("user", "Hi")],
    }
    rest: Any = {"max_output_tokens": 2, "store": False}
    cut = service.openai.responses.create(**asked, **rest, truncation="auto")
    assert cut.truncation == "auto"
    assert 200 < cut.usage.input_tokens < 300
    with pytest.raises(Exception, match="8192"):
        service.openai.responses.create(**asked, **rest)


def test_results_go_with_the_calls_that_go() -> None:
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "a", "output": "x"}
    system, first, last = _item("system", "S"), _item("user", "1"), _item("user", "2")
    assert shortened([system, first, call, result, last]) == [system, last]
    assert shortened([system, last]) == [system, last]


def test_parts_of_an_answer_have_no_empty_fields(played: Any) -> None:
    import asyncio

    from sampan.server.anthropic.messages import Reply as Message

    parts = [
        Part(0, reasoning="Hm."),
        Part(0, text="I look."),
        Part(0, calls=(CallPart(0, "{}", "call_a", "weather"),), finish="tool_calls"),
    ]
    whole = asyncio.run(Message("m", 100).whole(played(parts), Usage(1)))
    assert [sorted(block) for block in whole["content"]] == [
        ["signature", "thinking", "type"],
        ["text", "type"],
        ["id", "input", "name", "type"],
    ]
