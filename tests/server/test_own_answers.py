"""What the service has answered is taken back as the official clients write it, all of it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conftest import Running

SCHEMA = {"type": "object", "properties": {"command": {"enum": ["echo hi"]}}, "required": ["command"],
          "additionalProperties": False}  # fmt: skip


def _item(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def test_an_answer_goes_back_as_it_came(service: "Running") -> None:
    tool: Any = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
    asked: Any = [{"role": "user", "content": "Look."}]
    rest: Any = {"model": service.model, "max_tokens": 60, "temperature": 0, "tools": [tool],
                 "parallel_tool_calls": False}  # fmt: skip
    first = service.openai.chat.completions.create(messages=asked, tool_choice="required", **rest)
    with service.openai.chat.completions.create(
        messages=asked, tool_choice="required", stream=True, **rest
    ) as stream:
        pieces = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
    message = first.choices[0].message.model_dump()
    assert {"annotations", "audio", "function_call"} <= message.keys()
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in message["tool_calls"]]
    streamed: Any = {**message, "tool_calls": [
        {"index": 0, "id": results[0]["tool_call_id"], "type": "function",
         "function": {"name": pieces[0].function.name,
                      "arguments": "".join(piece.function.arguments for piece in pieces if piece.index == 0)}}
    ]}  # fmt: skip
    for answer, given in ((message, results), (streamed, results[:1])):
        answer |= {"refusal": None, "annotations": [], "audio": None}
        raw = service.openai.chat.completions.with_raw_response.create(
            messages=[*asked, answer, *given], tool_choice="none", **{**rest, "max_tokens": 2}
        )
        assert "x-ignored-fields" not in raw.headers
    refusal: Any = {"role": "assistant", "content": None, "refusal": "I will not."}
    again = service.openai.chat.completions.create(
        model=service.model, max_tokens=1, messages=[*asked, refusal, *asked]
    )
    plain = {"role": "assistant", "content": "I will not."}
    same: Any = service.openai.chat.completions.create(
        model=service.model, max_tokens=1, messages=[*asked, plain, *asked]
    )
    assert again.usage.prompt_tokens == same.usage.prompt_tokens


def test_a_response_goes_back_as_it_came(service: "Running") -> None:
    tools: Any = [{"type": "function", "name": "look", "parameters": SCHEMA, "strict": False}]
    first = service.openai.responses.create(
        model=service.model, input="Look.", tools=tools, tool_choice="required", max_output_tokens=60,
        temperature=0, store=False, parallel_tool_calls=False,
        include=["reasoning.encrypted_content", "web_search_call.results"],
    )  # fmt: skip
    calls: list[Any] = [item for item in first.output if item.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "x"} for call in calls]
    items: Any = [_item("user", "Look."), *(item.model_dump() for item in first.output), *results]
    second = service.openai.responses.with_raw_response.create(
        model=service.model, input=items, tools=tools, tool_choice="none", max_output_tokens=2
    )
    assert "x-ignored-fields" not in second.headers


def test_a_message_goes_back_as_it_came(service: "Running") -> None:
    asked: Any = {"model": service.model, "max_tokens": 60, "extra_body": {"temperature": 0}}
    tools: Any = [{"name": "look", "input_schema": SCHEMA}]
    choice: Any = {"type": "tool", "name": "look", "disable_parallel_tool_use": True}
    messages: Any = [{"role": "user", "content": "Look."}]
    first = service.anthropic.messages.create(messages=messages, tools=tools, tool_choice=choice, **asked)
    said = first.model_dump()["content"]
    assert "caller" in said[-1]
    result = {"type": "tool_result", "tool_use_id": said[-1]["id"], "content": "x"}
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": [result]}]
    then = {**asked, "max_tokens": 8, "messages": messages, "tools": tools}
    second = service.anthropic.messages.with_raw_response.create(**then)
    assert "x-ignored-fields" not in second.headers
    said = second.parse().model_dump()["content"]
    then["messages"] = [
        *messages,
        {"role": "assistant", "content": said},
        {"role": "user", "content": "And?"},
    ]
    third = service.anthropic.messages.with_raw_response.create(**then)
    assert "x-ignored-fields" not in third.headers
