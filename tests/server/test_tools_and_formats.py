"""Tool calls and answers in a form, by the official client and the real model."""

import json
from typing import TYPE_CHECKING, Any

import httpx
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
        ({"not": {"pattern": "a"}}, "not"),
        ({"uniqueItems": True}, "uniqueItems"),
        ({"allOf": 1}, "give a list of schemas"),
    ],
)
def test_a_bad_schema_is_that_requests_400(service: "Running", schema: Any, named: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError, match=named):
        service.openai.chat.completions.create(
            model=service.model, messages=ASKED, response_format=form, max_tokens=5
        )
    assert service.openai.chat.completions.create(model=service.model, messages=ASKED, max_tokens=1)


ASK: Any = "Where is it? Call the function, or answer in JSON."
LOOKUP: Any = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "at": {"type": "object", "properties": {"x": {"type": "null"}}},
    },
    "required": ["city"],
}
PLACE: Any = {
    "type": "object",
    "properties": {"place": {"enum": ["here", "there"]}},
    "required": ["place"],
    "additionalProperties": False,
}


def _chat(service: "Running", *, stream: bool, choice: str, seed: int) -> tuple[str, list[str]]:
    """The text of an answer, and the arguments of its calls."""
    options: Any = {
        "model": service.model, "messages": [{"role": "user", "content": ASK}], "seed": seed,
        "tools": [{"type": "function", "function": {"name": "look", "parameters": LOOKUP}}],
        "tool_choice": choice, "parallel_tool_calls": False, "temperature": 1.5, "max_tokens": 300,
        "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PLACE}},
    }  # fmt: skip
    if not stream:
        message = service.openai.chat.completions.create(**options).choices[0].message
        return message.content or "", [call.function.arguments for call in message.tool_calls or ()]
    deltas = [
        chunk.choices[0].delta for chunk in service.openai.chat.completions.create(**options, stream=True)
    ]
    calls = [call.function.arguments for delta in deltas for call in delta.tool_calls or ()]
    return "".join(delta.content or "" for delta in deltas), ["".join(calls)] if calls else []


def _responses(service: "Running", *, stream: bool, choice: str, seed: int) -> tuple[str, list[str]]:
    options: Any = {
        "model": service.model, "input": ASK, "tool_choice": choice, "parallel_tool_calls": False,
        "tools": [{"type": "function", "name": "look", "parameters": LOOKUP, "strict": bool(seed % 2)}],
        "temperature": 1.5, "text": {"format": {"type": "json_schema", "name": "p", "schema": PLACE}},
        "max_output_tokens": 300,
    }  # fmt: skip
    if stream:
        *_, last = service.openai.responses.create(**options, stream=True)
        response = last.response
    else:
        response = service.openai.responses.create(**options)
    return response.output_text, [row.arguments for row in response.output if row.type == "function_call"]


def _messages(service: "Running", *, stream: bool, choice: str, seed: int) -> tuple[str, list[str]]:  # noqa: ARG001
    options: Any = {
        "model": service.model, "messages": [{"role": "user", "content": ASK}], "max_tokens": 300,
        "tools": [{"name": "look", "input_schema": LOOKUP}],
        "tool_choice": {"type": {"required": "any"}.get(choice, choice), "disable_parallel_tool_use": True},
        "output_config": {"format": {"type": "json_schema", "schema": PLACE}},
    }  # fmt: skip
    if stream:
        with service.anthropic.messages.stream(**options) as events:
            message: Any = events.get_final_message()
    else:
        message = service.anthropic.messages.create(**options)
    text = "".join(block.text for block in message.content if block.type == "text")
    return text, [json.dumps(block.input) for block in message.content if block.type == "tool_use"]


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("api", [_chat, _responses, _messages])
def test_a_call_or_an_answer_that_keeps_the_format(service: "Running", api: Any, choice: str) -> None:
    for seed in range(6):
        text, calls = api(service, stream=seed >= 3, choice=choice, seed=seed)
        assert bool(text) != bool(calls)
        if choice == "required":
            assert calls
        if text:
            jsonschema.validate(json.loads(text), PLACE)
        for arguments in calls:
            found = json.loads(arguments)
            jsonschema.validate(found, LOOKUP)
            assert found.keys() <= {"city", "at"}
            assert found.get("at", {}).keys() <= {"x"}


@pytest.mark.parametrize("arguments", ["null", "", None, {}, "{}"])
def test_a_call_without_arguments_is_taken_as_it_comes(service: "Running", arguments: Any) -> None:
    """MCP's clients and other engines write all of these for a function that has no parameters."""
    function = {"name": "get_time", **({} if arguments is None else {"arguments": arguments})}
    messages = [
        *ASKED,
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    body = {"model": service.model, "messages": messages, "tools": [TIME], "max_tokens": 1}
    told = httpx.post(f"{service.url}/v1/chat/completions", json=body).json()
    body["messages"] = [messages[0], {"role": "assistant", "tool_calls": [CALL]}, messages[2]]
    expected = httpx.post(f"{service.url}/v1/chat/completions", json=body).json()
    assert told["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


CALL: Any = {"id": "1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}


def test_the_same_call_that_was_cut_is_told_alike_by_every_api(service: "Running") -> None:
    cut = '{"city": "Par'
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": cut}}
    chat = {"messages": [*ASKED, {"role": "assistant", "tool_calls": [call]}, *ASKED]}
    items = [
        *ASKED,
        {"type": "function_call", "call_id": "1", "name": "get_weather", "arguments": cut},
        *ASKED,
    ]
    block = {"type": "tool_use", "id": "1", "name": "get_weather", "input": {"INVALID_JSON": cut}}
    messages = [*ASKED, {"role": "assistant", "content": [block]}, *ASKED]
    sizes = []
    for path, body in (
        ("chat/completions", {**chat, "max_tokens": 1}),
        ("responses", {"input": items, "max_output_tokens": 1}),
        ("messages", {"messages": messages, "max_tokens": 1}),
    ):
        answer = httpx.post(f"{service.url}/v1/{path}", json={"model": service.model, **body})
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        cached = usage.get("cache_read_input_tokens", 0)
        sizes.append(cached + (usage.get("prompt_tokens") or usage["input_tokens"]))
    assert len(set(sizes)) == 1
