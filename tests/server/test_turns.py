"""Whatever the service has answered is taken back: no conversation gets stuck on what it said itself.

Answers are cut at random by length and by stop texts, called for or not, streamed or not, and the official
clients send them back as they hold them; a result may come, come late, or never.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import openai
import pytest

if TYPE_CHECKING:
    from conftest import Running

CITY: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
}
NONE: Any = {"type": "object", "properties": {}}
FORM: Any = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 30}},
    "required": ["answer"],
    "additionalProperties": False,
}
STOPS = ("</tool_call>", '"city', "Paris", "\n", '"', "tool", "}")
MARKUP = ("<tool_call", '{"name"', "</tool_call")
TURNS = 4
SEEDS = range(4)


class Draw(random.Random):
    """What a client may ask for. Calls must be made more often than the model would make them."""

    def options(self) -> tuple[bool, int, str | None, str]:
        """Whether to stream, tokens at most, a stop text, and how calls are chosen."""
        stop = self.choice(STOPS) if self.random() < 0.3 else None
        choice = self.choice(("required", "required", "auto", "weather", "format"))
        return self.random() < 0.5, self.choice((1, 2, 3, 5, 8, 12, 16, 20, 25, 40)), stop, choice

    def replies(
        self, calls: list[str], result: Callable[[str], Any], words: Callable[[str], Any]
    ) -> list[Any]:
        """Results of calls, and what else was said: before, after, or in place of them."""
        rows = [result(each) for each in calls]
        said = [words(self.choice(("user", "user", "assistant", "system")))]
        return self.choice((rows, rows[::-1] + said, said + rows, said)) or said


def _texts(choice: str, text: str) -> None:
    """Nothing of a call that must be made stands in the text, whatever is left of it."""
    if choice in ("required", "weather"):
        assert not any(mark in text for mark in MARKUP)


def _chat(service: "Running", seed: int) -> Iterator[tuple[str, str, Any]]:
    draw, messages = Draw(seed), [{"role": "user", "content": "How is the weather?"}]
    tools: Any = [
        {"type": "function", "function": {"name": "weather", "parameters": CITY}},
        {"type": "function", "function": {"name": "now", "parameters": NONE}},
    ]
    schema: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": FORM}}
    for turn in range(TURNS):
        stream, most, stop, choice = draw.options()
        named: Any = {"type": "function", "function": {"name": choice}}
        options: Any = {
            "model": service.model, "messages": messages, "tools": tools, "max_tokens": most, "stop": stop,
            "tool_choice": named if choice == "weather" else "required" if choice == "required" else "auto",
            "seed": seed + turn, "temperature": 1,
        } | ({"response_format": schema} if choice == "format" else {})  # fmt: skip
        if stream:
            try:
                with service.openai.chat.completions.stream(**options) as events:
                    message: Any = events.get_final_completion().choices[0].message
            except openai.LengthFinishReasonError as error:  # which holds what has come
                message = error.completion.choices[0].message
        else:
            message = service.openai.chat.completions.create(**options).choices[0].message
        _texts(choice, message.content or "")
        calls = [call.id for call in message.tool_calls or ()]
        yield choice, message.content or "", [call.function.arguments for call in message.tool_calls or ()]
        messages.append(message if draw.random() < 0.5 else message.model_dump(exclude_none=True))
        messages += draw.replies(
            calls,
            lambda id: {"role": "tool", "tool_call_id": id, "content": "sunny"},
            lambda role: {"role": role, "content": "Go on."},
        )


def _responses(service: "Running", seed: int) -> Iterator[tuple[str, str, Any]]:
    draw, items = Draw(seed), [{"role": "user", "content": "How is the weather?"}]
    tools: Any = [
        {"type": "function", "name": "weather", "parameters": CITY, "strict": False},
        {"type": "function", "name": "now", "parameters": NONE, "strict": False},
    ]
    schema: Any = {"format": {"type": "json_schema", "name": "a", "schema": FORM}}
    new, before = list(items), None
    for _ in range(TURNS):
        stream, most, _, choice = draw.options()
        named: Any = {"type": "function", "name": choice}
        stored = before is not None and draw.random() < 0.5
        options: Any = {
            "model": service.model, "input": new if stored else items, "max_output_tokens": most,
            "tool_choice": named if choice == "weather" else "required" if choice == "required" else "auto",
            "tools": tools, "temperature": 1,
        } | ({"previous_response_id": before} if stored else {})  # fmt: skip
        options |= {"text": schema} if choice == "format" else {}
        if stream:
            *_, last = service.openai.responses.create(**options, stream=True)
            response: Any = last.response
        else:
            response = service.openai.responses.create(**options)
        assert response.output
        _texts(choice, response.output_text)
        made = [item for item in response.output if item.type == "function_call"]
        yield choice, response.output_text, [call.arguments for call in made]
        before = response.id
        new = draw.replies(
            [call.call_id for call in made],
            lambda id: {"type": "function_call_output", "call_id": id, "output": "sunny"},
            lambda role: {"type": "message", "role": role, "content": "Go on."},
        )
        items = [*items, *(item.to_dict() for item in response.output), *new]


def _messages(service: "Running", seed: int) -> Iterator[tuple[str, str, Any]]:
    draw, messages = Draw(seed), [{"role": "user", "content": "How is the weather?"}]
    tools: Any = [{"name": "weather", "input_schema": CITY}, {"name": "now", "input_schema": NONE}]
    for _ in range(TURNS):
        stream, most, stop, choice = draw.options()
        chosen = {"required": {"type": "any"}, "weather": {"type": "tool", "name": "weather"}}
        options: Any = {
            "model": service.model, "messages": messages, "tools": tools, "max_tokens": most,
            "tool_choice": chosen.get(choice, {"type": "auto"}),
        } | ({"stop_sequences": [stop]} if stop is not None and stop.strip() else {})  # fmt: skip
        if choice == "format":
            options["output_config"] = {"format": {"type": "json_schema", "schema": FORM}}
        if stream:
            with service.anthropic.messages.stream(**options) as events:
                message: Any = events.get_final_message()
        else:
            message = service.anthropic.messages.create(**options)
        text = "".join(block.text for block in message.content if block.type == "text")
        _texts(choice, text)
        calls = [block for block in message.content if block.type == "tool_use"]
        yield choice, text, [json.dumps(call.input) for call in calls]
        messages.append({"role": "assistant", "content": message.content})
        results: Any = draw.replies(
            [call.id for call in calls],
            lambda id: {"type": "tool_result", "tool_use_id": id, "content": "sunny"},
            lambda _: {"type": "text", "text": "Go on."},
        )
        results.sort(key=lambda block: block["type"], reverse=True)  # here results come first
        messages.append({"role": "user", "content": results})


@pytest.mark.parametrize("api", [_chat, _responses, _messages])
def test_what_the_service_said_is_taken_back(service: "Running", api: Any) -> None:
    answers = [answer for seed in SEEDS for answer in api(service, seed)]
    assert len(answers) == TURNS * len(SEEDS)
    arguments = [each for _, _, calls in answers for each in calls]
    assert any(_is_cut(each) for each in arguments)
    assert any(not _is_cut(each) for each in arguments)


def _is_cut(arguments: str) -> bool:
    try:
        found = json.loads(arguments)
    except ValueError:
        return True
    return "INVALID_JSON" in found or ("city" in found) != ("days" in found)
