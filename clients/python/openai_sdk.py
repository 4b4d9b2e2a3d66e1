"""The OpenAI SDK: Chat Completions and Responses, each with its own answers sent back as they came."""

from typing import Any

import openai
from steps import CITIES, KEY, MODEL, QUESTION, URL, WEATHER, check, drive

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
asked: dict[str, Any] = {"role": "user", "content": QUESTION}
tools: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]


def chat() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=[asked], max_tokens=20)
    check(answer.choices[0].message.content, answer)


def stream() -> None:
    # No limit: the SDK has no final answer of a stream that was cut.
    with client.chat.completions.stream(model=MODEL, messages=[asked], temperature=0) as events:
        for _ in events:
            pass
        answer = events.get_final_completion()
    check(answer.choices[0].message.content, answer)


def tools_and_second_turn() -> None:
    history = [asked]
    answer = client.chat.completions.create(
        model=MODEL, messages=history, tools=tools, tool_choice="required", max_tokens=60
    )
    message = answer.choices[0].message
    check(message.tool_calls, answer)
    history.append(message.model_dump())
    history += [
        {"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls or []
    ]
    second = client.chat.completions.create(model=MODEL, messages=history, tools=tools, max_tokens=20)
    check(second.choices[0].message.content is not None, second)


def parsed() -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "w", "strict": True, "schema": {**WEATHER, "additionalProperties": False}},
    }
    answer = client.chat.completions.create(
        model=MODEL, messages=[asked], response_format=form, max_tokens=40
    )
    check(any(city in (answer.choices[0].message.content or "") for city in CITIES), answer)


def responses() -> None:
    tool: Any = {
        "type": "function",
        "name": "weather",
        "parameters": {**WEATHER, "additionalProperties": False},
        "strict": True,
    }
    history: list[Any] = [asked]
    answer = client.responses.create(
        model=MODEL, input=history, tools=[tool], tool_choice="required", max_output_tokens=60, store=False
    )
    calls = [item for item in answer.output if item.type == "function_call"]
    check(calls, answer)
    history += [item.model_dump() for item in answer.output]
    history += [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls]
    second = client.responses.create(model=MODEL, input=history, tools=[tool], max_output_tokens=20)
    check(second.output, second)


def responses_stream() -> None:
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as events:
        for _ in events:
            pass
        answer = events.get_final_response()
    check(answer.output_text, answer)
    second = client.responses.create(
        model=MODEL, input="And of Italy?", previous_response_id=answer.id, max_output_tokens=20
    )
    check(second.output_text, second)


drive(openai.__version__, chat, stream, tools_and_second_turn, parsed, responses, responses_stream)
