"""Anthropic's blocks: what a small model would not say by itself, as the official client reads it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import pytest

from sampan.server.anthropic.asks import template_messages
from sampan.server.anthropic.messages import Reply
from sampan.server.anthropic.schemas import CountRequest
from sampan.server.ask import CallPart, Part, Usage
from sampan.server.errors import ApiError

HI = [{"role": "user", "content": "Hi"}]
# An answer as a larger model gives it: it thinks, says something and calls two functions.
PARTS = [
    Part(0, reasoning="Two "),
    Part(0, reasoning="cities."),
    Part(0, text="I look."),
    Part(0, calls=(CallPart(0, "", "call_a", "weather"),)),
    Part(0, calls=(CallPart(0, '{"city": "Pa'), CallPart(0, 'ris"}'), CallPart(1, "", "call_b", "weather"))),
    Part(0, calls=(CallPart(1, '{"city": "Rome"}'),), finish="tool_calls"),
]


def frames(parts: AsyncIterator[Part], usage: Usage) -> list[bytes]:
    async def all_of_it() -> list[bytes]:
        return [frame async for frame in Reply("m", 100).frames(parts, usage)]

    return asyncio.run(all_of_it())


def test_thinking_and_calls_stream_as_blocks(played: Any, canned: Callable[..., str]) -> None:
    usage = Usage(7, completion_tokens=9, cached_tokens=4, reasoning_tokens=2)
    url = canned(frames(played(PARTS), usage))
    with (
        anthropic.Anthropic(base_url=url, api_key="none") as client,
        client.messages.stream(model="m", max_tokens=100, messages=HI) as stream,
    ):
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    thought, said, paris, rome = final.content
    assert thought.thinking == "Two cities."
    assert thought.signature
    assert said.text == "I look."
    assert (paris.id, paris.name, paris.input) == ("call_a", "weather", {"city": "Paris"})
    assert (rome.id, rome.input) == ("call_b", {"city": "Rome"})
    assert final.stop_reason == "tool_use"
    assert (final.usage.input_tokens, final.usage.cache_read_input_tokens) == (3, 4)
    whole = asyncio.run(Reply("m", 100).whole(played(PARTS), usage))
    assert [block.to_dict() for block in final.content] == whole["content"]


def test_arguments_cut_short_are_shown_as_they_are(played: Any) -> None:
    parts = [Part(0, calls=(CallPart(0, '{"city": "Pa', "a", "weather"),), finish="length")]
    whole = asyncio.run(Reply("m", 5).whole(played(parts), Usage(1, 5)))
    assert whole["content"][0]["input"] == {"INVALID_JSON": '{"city": "Pa'}
    assert whole["stop_reason"] == "max_tokens"
    earlier = asyncio.run(Reply("m", 6).whole(played(parts), Usage(1, 5)))
    assert earlier["stop_reason"] == "model_context_window_exceeded"


@pytest.mark.parametrize(
    "text", ['{"a": "\\ud83d"}', '{"a": 1e999}', '{"a": ' + "9" * 400 + "}", "[1]", "{}x"]
)
def test_arguments_that_could_not_be_sent_back_come_as_text(played: Any, text: str) -> None:
    parts = [Part(0, calls=(CallPart(0, text, "a", "weather"),), finish="tool_calls")]
    whole = asyncio.run(Reply("m", 5).whole(played(parts), Usage(1, 5)))
    assert whole["content"][0]["input"] == {"INVALID_JSON": text}
    json.dumps(whole, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, {}), ({"input": None}, {}), ({"input": ""}, {}), ({"input": "null"}, {}),
        ({"input": '{"a": 1}'}, {"a": 1}), ({"input": '{"a'}, {"INVALID_JSON": '{"a'}),
        ({"input": {"a": 1}}, {"a": 1}),
    ],
)  # fmt: skip
def test_arguments_are_taken_as_clients_have_them(given: dict[str, Any], told: dict[str, Any]) -> None:
    call = {"type": "tool_use", "id": "a", "name": "weather", **given}
    messages = [*HI, {"role": "assistant", "content": [call]}, *HI]
    rows = template_messages(CountRequest.model_validate({"model": "m", "messages": messages}))
    assert json.loads(rows[1]["tool_calls"][0]["function"]["arguments"]) == told


def test_an_error_in_a_stream_is_its_last_event(played: Any, canned: Callable[..., str]) -> None:
    sent = frames(played([Part(0, text="He"), ApiError(503, "the engine went down")]), Usage(1))
    with anthropic.Anthropic(base_url=canned(sent), api_key="none", max_retries=0) as client:
        events = client.messages.create(model="m", max_tokens=10, messages=HI, stream=True)
        with pytest.raises(anthropic.APIStatusError, match="the engine went down") as caught:
            list(events)
    assert "overloaded_error" in str(caught.value)


def test_history_reaches_the_template_in_the_form_that_it_knows() -> None:
    call = {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Paris"}}
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "no such city", "is_error": True}
    body = {
        "model": "m",
        "system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind"}],
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "user", "content": [{"type": "text", "text": "there"}]},
            {"role": "assistant", "content": [thought, {"type": "text", "text": "I look."}, call]},
            {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
        ],
    }
    function = {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert template_messages(CountRequest.model_validate_json(json.dumps(body))) == [
        {"role": "system", "content": "Be\nkind"},
        {"role": "user", "content": "Hi\nthere"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": "a", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "Error: no such city"},
        {"role": "user", "content": "Well?"},
    ]
