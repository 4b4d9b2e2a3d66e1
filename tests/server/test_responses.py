"""OpenAI's responses as the official client sees them."""

import asyncio
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

FRANCE = "What is the capital of France?"
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


def ask(service: Any, input: Any = FRANCE, **more: Any) -> Any:
    return service.openai.responses.create(
        model=service.model, input=input, temperature=0, **{"max_output_tokens": 30, **more}
    )


def test_a_response_has_text_a_status_and_usage(service: Any) -> None:
    response = ask(service, metadata={"topic": "geography"}, user="u")
    assert "Paris" in response.output_text
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert [item.type for item in response.output] == ["message"]
    usage = response.usage
    assert usage.input_tokens + usage.output_tokens == usage.total_tokens
    assert usage.input_tokens_details.cached_tokens <= usage.input_tokens
    assert (response.metadata, response.temperature, response.store) == ({"topic": "geography"}, 0, True)


def test_an_answer_that_is_cut_short_is_incomplete(service: Any) -> None:
    response = ask(service, max_output_tokens=3)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output[0].status == "incomplete"
    assert response.usage.output_tokens == 3


def test_a_stream_has_the_documented_events_and_the_same_text(service: Any) -> None:
    events = list(ask(service, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1].response
    assert text == events[-4].text == final.output_text == ask(service).output_text
    assert {event.item_id for event in events[3:-2]} == {final.output[0].id}
    assert final.usage.output_tokens > 0
    assert events[0].response.status == "in_progress"


def test_the_stream_helper_puts_the_response_together(service: Any) -> None:
    with service.openai.responses.stream(
        model=service.model, input=FRANCE, temperature=0, max_output_tokens=30
    ) as stream:
        final = stream.get_final_response()
    assert "Paris" in final.output_text


def test_the_asynchronous_client(service: Any) -> None:
    async def run() -> tuple[Any, str]:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="x", max_retries=0) as client:
            asked = {"model": service.model, "input": FRANCE, "temperature": 0, "max_output_tokens": 9}
            whole = await client.responses.create(**asked)
            stream = await client.responses.create(**asked, stream=True)
            return whole, "".join([e.delta async for e in stream if e.type == "response.output_text.delta"])

    whole, streamed = asyncio.run(run())
    assert whole.output_text == streamed


def test_what_is_stored_is_shown_listed_and_deleted(service: Any) -> None:
    responses = service.openai.responses
    for response in (ask(service), list(ask(service, stream=True))[-1].response):
        assert responses.retrieve(response.id).to_dict() == response.to_dict()
        listed = responses.input_items.list(response.id).data
        assert [(item.role, item.content[0].text) for item in listed] == [("user", FRANCE)]
        responses.delete(response.id)
        for call in (responses.retrieve, responses.delete, responses.input_items.list):
            with pytest.raises(openai.NotFoundError, match=response.id):
                call(response.id)


def test_what_is_not_to_be_stored_is_not(service: Any) -> None:
    response = ask(service, store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        service.openai.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(service, previous_response_id=response.id)
    assert caught.value.code == "previous_response_not_found"


def test_a_conversation_goes_on_by_id_as_it_does_by_items(service: Any) -> None:
    first = ask(service)
    by_id = ask(service, "And of Italy?", previous_response_id=first.id)
    items = [{"role": "user", "content": FRANCE}, *first.output, {"role": "user", "content": "And of Italy?"}]
    by_items = ask(service, items, store=False)
    assert by_id.usage.input_tokens == by_items.usage.input_tokens
    assert by_id.output_text == by_items.output_text
    assert "Rome" in by_id.output_text
    third = ask(service, "Thanks!", previous_response_id=by_id.id, max_output_tokens=1)
    assert third.usage.input_tokens > by_id.usage.input_tokens


def test_items_may_stand_by_their_ids(service: Any) -> None:
    first = ask(service, max_output_tokens=20)
    said = [{"role": "user", "content": "What is the capital of France?"}]
    then = [{"role": "user", "content": "And of Italy?"}]
    whole = [*said, *(item.to_dict() for item in first.output), *then]
    expected = ask(service, input=whole, max_output_tokens=20)
    for reference in ({"type": "item_reference", "id": first.output[0].id}, {"id": first.output[0].id}):
        found = ask(service, input=[*said, reference, *then], max_output_tokens=20)
        assert found.output_text == expected.output_text
        assert found.usage.input_tokens == expected.usage.input_tokens
    service.openai.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(service, input=[*said, reference])
    assert caught.value.param == "input.1.id"


def test_items_are_listed_in_pages(service: Any) -> None:
    items = [{"role": "user", "content": [{"type": "input_text", "text": text}]} for text in "abc"]
    response = ask(service, items, max_output_tokens=1)
    listing = service.openai.responses.input_items.list
    whole = listing(response.id, order="asc")
    assert [item.content[0].text for item in whole.data] == ["a", "b", "c"]
    page = listing(response.id, limit=2)
    assert ([item.content[0].text for item in page.data], page.has_more) == (["c", "b"], True)
    assert [item.content[0].text for item in page] == ["c", "b", "a"]
    for bad in ({"after": "msg_0"}, {"limit": 0}, {"include": ["file_search_call.results"]}):
        with pytest.raises(openai.BadRequestError, match=next(iter(bad))):
            listing(response.id, **bad)


def test_instructions_are_for_one_response_only(service: Any) -> None:
    plain = ask(service, max_output_tokens=1)
    told = ask(service, instructions="Answer in French, please.", max_output_tokens=1)
    assert told.instructions == "Answer in French, please."
    lengths = {
        ask(service, "So?", previous_response_id=r.id, max_output_tokens=1).usage.input_tokens
        for r in (plain, told)
    }
    assert told.usage.input_tokens != plain.usage.input_tokens
    assert len(lengths) == 1


def test_a_format_gives_what_it_promises(service: Any) -> None:
    class City(BaseModel):
        name: Literal["Paris", "Rome"]
        is_capital: bool

    parsed = service.openai.responses.parse(model=service.model, input=FRANCE, text_format=City)
    assert isinstance(parsed.output_parsed, City)
    assert parsed.text.format.type == "json_schema"


def test_log_probabilities_come_with_the_text(service: Any) -> None:
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 4}
    events = list(ask(service, stream=True, **asked))
    rows = events[-1].response.output[0].content[0].logprobs
    assert "".join(row.token for row in rows) == events[-1].response.output_text
    assert all(len(row.top_logprobs) == 2 and row.logprob <= 0 for row in rows)
    assert rows[0].top_logprobs[0].token == rows[0].token
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [row.token for delta in deltas for row in delta.logprobs] == [row.token for row in rows]


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("truncation", {"truncation": "some"}),
        ("background", {"background": True}),
        ("reasoning.effort", {"reasoning": {"effort": "some"}}),
        ("conversation", {"conversation": "conv_1"}),
        ("tool_choice", {"tools": [{"type": "web_search"}], "tool_choice": "required"}),
        ("tool_choice.type", {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "time"}}),
        ("tools", {"tools": [WEATHER, WEATHER]}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("stream_options", {"stream_options": {"include_obfuscation": False}}),
        ("input", {"input": []}),
        ("input.0.id", {"input": [{"type": "item_reference", "id": "x"}]}),
        (
            "input.1.call_id",
            {
                "input": [
                    {"role": "user", "content": "x"},
                    {"type": "function_call_output", "call_id": "a", "output": "x"},
                ]
            },
        ),
        ("previous_response_id", {"previous_response_id": "resp_0"}),
        ("max_tokens", {"extra_body": {"max_tokens": 3}}),
    ],
)
def test_what_is_not_served_is_refused_by_name(service: Any, field: str, given: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(service, **given)
    assert caught.value.param is not None
    assert caught.value.param.startswith(field)


def test_an_unknown_model_is_not_found(service: Any) -> None:
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError, match="gpt-0"):
            service.openai.responses.create(model="gpt-0", input="Hi", stream=stream)


def test_no_thinking_is_what_a_model_that_cannot_think_does(service: Any) -> None:
    assert ask(service, reasoning={"effort": "none"}, max_output_tokens=1).reasoning.effort == "none"
