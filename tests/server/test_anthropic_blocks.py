"""Anthropic's blocks: what a small model would not say by itself, as the official client reads it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import pytest

from sampan.core.types import SamplingParams, TokenLogprob
from sampan.server.anthropic.asks import template_messages
from sampan.server.anthropic.messages import Reply
from sampan.server.anthropic.schemas import CountRequest
from sampan.server.ask import Ask, Caller, CallPart, Ids, Part, Usage
from sampan.server.errors import ApiError
from sampan.server.thinking import within_budget

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


class Scripted:
    """What `within_budget` needs of a service: the first answer only thinks, the second answers."""

    def __init__(self, text: Any) -> None:
        self.text = text
        self.asked: list[Ask] = []

    async def answer(self, ask: Ask, caller: Caller, usage: Usage) -> AsyncIterator[Part]:  # noqa: ARG002
        self.asked.append(ask)
        for place in range(100):
            usage.completion_tokens += 1
            tokens = (TokenLogprob(place, -1.0, ()),)
            if len(self.asked) == 1:
                usage.reasoning_tokens += 1
                yield Part(0, reasoning="hm ", tokens=tokens)
            else:
                yield Part(0, text="42", tokens=tokens, finish="stop")
                return


def test_a_budget_ends_the_thinking_and_the_answer_follows(model_text: Any) -> None:
    scripted, usage = Scripted(model_text), Usage(3)
    ask = Ask(Ids("i", [1, 2, 3]), SamplingParams(max_tokens=50), "m", thinking=True)

    async def run() -> list[Part]:
        return [part async for part in within_budget(scripted, ask, Caller(), usage, 10)]

    parts = asyncio.run(run())
    assert "".join(part.reasoning for part in parts) == "hm " * 10
    assert "".join(part.text for part in parts) == "42"
    assert (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens) == (3, 11, 10)
    rest = scripted.asked[1]
    assert rest.ids[:13].tolist() == [1, 2, 3, *range(10)]
    assert model_text.tokenizer.decode(rest.ids[13:]) == "\n</think>\n\n"
    assert (rest.sampling.max_tokens, rest.thinking) == (40, False)
