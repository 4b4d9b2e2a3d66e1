"""Anthropic's API as its official client sees it."""

import asyncio
from typing import Any, Literal

import anthropic
import pytest
from pydantic import BaseModel

GREEDY = {"temperature": 0}
HI = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def test_a_message_has_text_an_end_and_usage(service: Any) -> None:
    message = service.anthropic.messages.create(
        model=service.model, max_tokens=30, messages=HI, extra_body=GREEDY
    )
    assert message.role == "assistant"
    assert message.model == service.model
    assert [block.type for block in message.content] == ["text"]
    assert "Paris" in message.content[0].text
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens > 3
    assert message._request_id


def test_a_stream_says_the_same_in_the_documented_order(service: Any) -> None:
    asked = {"model": service.model, "max_tokens": 30, "messages": HI, "extra_body": GREEDY}
    whole = service.anthropic.messages.create(**asked)
    events = list(service.anthropic.messages.create(**asked, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0].message.content == []
    assert events[0].message.stop_reason is None
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert text == whole.content[0].text
    assert events[-2].delta.stop_reason == whole.stop_reason
    assert events[-2].usage.output_tokens == whole.usage.output_tokens


def test_the_stream_helper_puts_the_message_together(service: Any) -> None:
    with service.anthropic.messages.stream(
        model=service.model, max_tokens=5, messages=HI, extra_body=GREEDY
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 5)


def test_the_asynchronous_client(service: Any) -> None:
    async def ask() -> Any:
        async with anthropic.AsyncAnthropic(base_url=service.url, api_key="none", max_retries=0) as client:
            asked = {"model": service.model, "max_tokens": 5, "messages": HI, "extra_body": GREEDY}
            async with client.messages.stream(**asked) as stream:
                streamed = await stream.get_final_message()
            return await client.messages.create(**asked), streamed

    whole, streamed = asyncio.run(ask())
    assert whole.content[0].text == streamed.content[0].text


def test_a_stop_sequence_is_named(service: Any) -> None:
    message = service.anthropic.messages.create(
        model=service.model,
        max_tokens=30,
        messages=HI,
        stop_sequences=["Rome", "Paris"],
        extra_body=GREEDY,
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "Paris")
    assert "Paris" not in message.content[0].text


def test_the_system_prompt_may_be_text_or_blocks(service: Any) -> None:
    blocks = [{"type": "text", "text": "Answer in French.", "cache_control": {"type": "ephemeral"}}]
    counts = {
        service.anthropic.messages.count_tokens(model=service.model, messages=HI, **given).input_tokens
        for given in ({"system": "Answer in French."}, {"system": blocks})
    }
    without = service.anthropic.messages.count_tokens(model=service.model, messages=HI, system="Be kind.")
    assert len(counts) == 1
    assert counts != {without.input_tokens}


def test_what_is_counted_is_what_is_used_and_a_repeated_prompt_is_read_from_the_cache(service: Any) -> None:
    asked = {
        "model": service.model,
        "system": "You know every bridge of Venice, and its age. " * 20,
        "messages": HI,
    }
    count = service.anthropic.messages.count_tokens(**asked).input_tokens
    first, second = (service.anthropic.messages.create(**asked, max_tokens=2).usage for _ in range(2))
    for usage in (first, second):
        assert usage.input_tokens + usage.cache_read_input_tokens == count
    assert second.cache_read_input_tokens > count // 2


def test_a_conversation_goes_on(service: Any) -> None:
    first = service.anthropic.messages.create(
        model=service.model, max_tokens=30, messages=HI, extra_body=GREEDY
    )
    then = [
        *HI,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "And of Italy?"},
    ]
    second = service.anthropic.messages.create(
        model=service.model, max_tokens=30, messages=then, extra_body=GREEDY
    )
    assert "Rome" in second.content[0].text


def test_a_format_gives_what_it_promises(service: Any) -> None:
    class City(BaseModel):
        name: Literal["Paris", "Rome"]
        is_capital: bool

    message = service.anthropic.messages.parse(
        model=service.model, max_tokens=100, messages=HI, output_format=City
    )
    assert isinstance(message.parsed_output, City)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("max_tokens", {"max_tokens": 0}),
        ("messages.0.content.0", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        ("messages.1.role", {"messages": [*HI, {"role": "assistant", "content": "The"}]}),
        ("messages.0.content.0", {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a",
                                                                             "name": "b", "input": {}}]}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": []}]}),
        ("tool_choice", {"tool_choice": {"type": "any"}}),
        ("tool_choice", {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "time"}}),
        ("tools", {"tools": [WEATHER, WEATHER]}),
        ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ("temperature", {"extra_body": {"temperature": 1.5}}),
        ("container", {"container": "c"}),
    ],
)  # fmt: skip
def test_what_is_not_served_is_refused_by_name(service: Any, field: str, given: dict[str, Any]) -> None:
    asked = {"model": service.model, "max_tokens": 10, "messages": HI, **given}
    with pytest.raises(anthropic.BadRequestError) as caught:
        service.anthropic.messages.create(**asked)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert field in body["error"]["message"]
    assert body["request_id"] == caught.value.request_id


def test_an_unknown_model_is_not_found(service: Any) -> None:
    for ask in (service.anthropic.messages.count_tokens, service.anthropic.messages.create):
        more = {} if ask == service.anthropic.messages.count_tokens else {"max_tokens": 1}
        with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
            ask(model="gpt-0", messages=HI, **more)


def test_hints_and_names_are_taken(service: Any) -> None:
    message = service.anthropic.messages.create(
        model=service.model,
        max_tokens=2,
        messages=HI,
        metadata={"user_id": "u"},
        service_tier="auto",
        thinking={"type": "adaptive"},
        extra_body={"top_k": 1, "top_p": 0.9},
    )
    assert message.usage.output_tokens == 2


def _used(*ids: str) -> dict[str, Any]:
    calls = [{"type": "tool_use", "id": id, "name": "weather", "input": {"city": "Paris"}} for id in ids]
    return {"role": "assistant", "content": calls}


def _result(id: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": "rain"}


def _user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


TEXT = {"type": "text", "text": "Well?"}


@pytest.mark.parametrize(
    ("turns", "place", "said"),
    [
        ([_used("a"), _user(TEXT, _result("a"))], "messages.2.content.1", "come first"),
        ([_used("a"), *HI, _user(_result("a"))], "messages.3.content.0", "come first"),
        ([_used("a"), _user(_result("b"))], "messages.2.content.0.tool_use_id", "'b'"),
        ([_user(_result("b"))], "messages.1.content.0.tool_use_id", "'b'"),
        ([_used("a"), _user(_result("a")), _used("b"), _user(_result("a"))],
         "messages.4.content.0.tool_use_id", "'a'"),
    ],
)  # fmt: skip
def test_a_result_in_the_wrong_place_is_named_as_the_request_has_it(
    service: Any, turns: list[Any], place: str, said: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        service.anthropic.messages.create(
            model=service.model, max_tokens=1, messages=[*HI, *turns], tools=[WEATHER], system="Be kind."
        )
    message = caught.value.body["error"]["message"]  # type: ignore[index]
    assert message.startswith(f"{place}: ")
    assert said in message


def test_results_that_stand_where_they_must_are_taken(service: Any) -> None:
    turns = [_used("a"), _used("b"), {"role": "user", "content": [_result("b"), _result("a"), TEXT]}]
    answer = service.anthropic.messages.create(
        model=service.model, max_tokens=1, messages=[*HI, *turns], tools=[WEATHER]
    )
    assert answer.usage.output_tokens == 1
