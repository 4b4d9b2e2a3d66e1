"""OpenAI's response items: what a small model would not say by itself."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
from pydantic import TypeAdapter

from sampan.core.types import SamplingParams
from sampan.server.ask import CallPart, Part, Usage
from sampan.server.errors import ApiError
from sampan.server.openai.responses_asks import numbered, template_messages
from sampan.server.openai.responses_events import Reply
from sampan.server.openai.responses_schemas import Items, ResponseRequest

# An answer as a larger model gives it: it thinks, says something and calls two functions.
PARTS = [
    Part(0, reasoning="Two "),
    Part(0, reasoning="cities."),
    Part(0, text="I look."),
    Part(0, calls=(CallPart(0, "", "call_a", "weather"), CallPart(0, '{"city": "Pa'))),
    Part(0, calls=(CallPart(0, 'ris"}'), CallPart(1, "{}", "call_b", "weather"))),
    Part(0, finish="tool_calls"),
]


def reply(model_text: Any) -> Reply:
    body = ResponseRequest.model_validate({"model": "m", "input": "Hi"})
    return Reply(body, SamplingParams(), model_text, None)


def frames(model_text: Any, parts: Any) -> list[bytes]:
    async def all_of_it() -> list[bytes]:
        return [frame async for frame in reply(model_text).frames(parts, Usage(3))]

    return asyncio.run(all_of_it())


def test_thinking_and_calls_stream_as_items(model_text: Any, played: Any, canned: Callable[..., str]) -> None:
    sent = frames(model_text, played(PARTS))
    with (
        openai.OpenAI(base_url=canned(sent), api_key="none") as client,
        client.responses.stream(model="m", input="Hi") as stream,
    ):
        events = list(stream)
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    thought, said, paris, rome = final.output
    assert thought.content[0].text == "Two cities."
    assert said.content[0].text == "I look."
    assert (paris.call_id, paris.name, paris.arguments) == ("call_a", "weather", '{"city": "Paris"}')
    assert (rome.call_id, rome.arguments, rome.status) == ("call_b", "{}", "completed")
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[2:8] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
    ]
    assert kinds.count("function_call_arguments.delta") == 3
    assert kinds.count("function_call_arguments.done") == kinds.count("output_item.done") - 2 == 2
    whole = asyncio.run(reply(model_text).whole(played(PARTS), Usage(3)))
    last = json.loads(sent[-1].split(b"data: ")[1])["response"]
    for streamed, item in zip(last["output"], whole["output"], strict=True):
        assert {**streamed, "id": None} == {**item, "id": None}


def test_an_error_in_a_stream_fails_the_response(
    model_text: Any, played: Any, canned: Callable[..., str]
) -> None:
    sent = frames(
        model_text, played([Part(0, text="He"), ApiError(503, "the engine went down", code="engine_lost")])
    )
    with openai.OpenAI(base_url=canned(sent), api_key="none") as client:
        last = list(client.responses.create(model="m", input="Hi", stream=True))[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert (last.response.error.code, last.response.error.message) == ("engine_lost", "the engine went down")
    assert last.response.output[0].status == "incomplete"


def test_items_reach_the_template_in_the_form_that_it_knows() -> None:
    given = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "rain"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "sun"}]},
        {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "Both."}]},
    ]  # fmt: skip
    items = numbered(TypeAdapter(Items).validate_json(json.dumps(given)), {}.get)
    assert len({item["id"] for item in items}) == len(items)
    calls = [
        {"id": name, "type": "function", "function": {"name": "weather", "arguments": "{}"}} for name in "ab"
    ]
    assert template_messages("In French.", items) == [
        {"role": "system", "content": "In French."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "tool", "tool_call_id": "b", "content": "sun"},
        {"role": "assistant", "content": "", "reasoning_content": "Both."},
    ]
