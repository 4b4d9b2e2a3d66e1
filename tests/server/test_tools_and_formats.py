"""Tool calls and answers in a form, by the official client and the real model."""

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import openai
import pytest

if TYPE_CHECKING:
    from conftest import Running

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
TIME: Any = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
}
ASKED: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
PERSON: Any = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_that_must_be_made(service: "Running", choice: Any) -> None:
    answer = service.openai.chat.completions.create(
        model=service.model, messages=ASKED, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False,
        temperature=0,
    )  # fmt: skip
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    assert answer.choices[0].finish_reason == "tool_calls"
    assert not answer.choices[0].message.content


def test_a_streamed_call_is_the_whole_one(service: "Running") -> None:
    options: Any = {
        "model": service.model, "messages": ASKED, "tools": [WEATHER, TIME], "tool_choice": "required",
        "parallel_tool_calls": False, "temperature": 0,
    }  # fmt: skip
    whole = service.openai.chat.completions.create(**options).choices[0].message.tool_calls
    assert whole is not None
    deltas: list[Any] = []
    for chunk in service.openai.chat.completions.create(**options, stream=True):
        deltas += chunk.choices[0].delta.tool_calls or []
        last = chunk.choices[0].finish_reason
    assert deltas[0].function.name == whole[0].function.name
    assert deltas[0].id
    assert "".join(delta.function.arguments for delta in deltas) == whole[0].function.arguments
    assert last == "tool_calls"


def test_a_conversation_with_a_result_goes_on(service: "Running") -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    messages: Any = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 25 degrees"},
    ]
    answer = service.openai.chat.completions.create(
        model=service.model,
        messages=messages,
        tools=[WEATHER],
        tool_choice="none",
        max_tokens=20,
        temperature=0,
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_a_result_of_no_call_is_a_400(service: "Running") -> None:
    messages: Any = [*ASKED, {"role": "tool", "tool_call_id": "call_9", "content": "sunny"}]
    with pytest.raises(openai.BadRequestError, match="call_9"):
        service.openai.chat.completions.create(model=service.model, messages=messages, tools=[WEATHER])


@pytest.mark.parametrize("stream", [False, True])
def test_a_strict_schema(service: "Running", stream: bool) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "pet", "schema": PERSON, "strict": True}}
    ask: Any = [{"role": "user", "content": "Invent a pet."}]
    options: Any = {
        "model": service.model,
        "messages": ask,
        "response_format": schema,
        "temperature": 0.8,
        "seed": 3,
    }
    if stream:
        chunks = service.openai.chat.completions.create(**options, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        text = service.openai.chat.completions.create(**options).choices[0].message.content or ""
    jsonschema.validate(json.loads(text), PERSON)


@pytest.mark.parametrize(
    ("grammar", "good"),
    [
        ({"type": "choice", "value": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"type": "regex", "value": "[0-9]{4}-[0-9]{2}"}, lambda text: len(text) == 7 and text[4] == "-"),
        ({"type": "lark", "value": 'start: "a" /[bc]{3}/'}, lambda text: text[0] == "a" and len(text) == 4),
    ],
)
def test_other_grammars(service: "Running", grammar: Any, good: Any) -> None:
    answer = service.openai.chat.completions.create(
        model=service.model, messages=ASKED, extra_body={"grammar": grammar}
    )
    assert good(answer.choices[0].message.content)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "object", "minProperties2": 1}, "minProperties2"),
        ({"type": "nonesuch"}, "nonesuch"),
        ({"not": {"type": "string"}}, "not"),
    ],
)
def test_a_bad_schema_is_that_requests_400(service: "Running", schema: Any, named: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError, match=named):
        service.openai.chat.completions.create(
            model=service.model, messages=ASKED, response_format=form, max_tokens=5
        )
    assert service.openai.chat.completions.create(model=service.model, messages=ASKED, max_tokens=1)
