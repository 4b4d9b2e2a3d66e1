"""Anthropic's SDK, its tool runner included."""

from typing import Any

import anthropic
from steps import KEY, MODEL, QUESTION, URL, WEATHER, check, drive

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
asked: Any = {"role": "user", "content": QUESTION}
tools: Any = [{"name": "weather", "description": "The weather of a city", "input_schema": WEATHER}]


def chat() -> None:
    answer = client.messages.create(model=MODEL, messages=[asked], max_tokens=20)
    check(answer.content, answer)


def stream() -> None:
    with client.messages.stream(model=MODEL, messages=[asked], max_tokens=20) as events:
        check("".join(events.text_stream), "no text")


def tools_and_second_turn() -> None:
    answer = client.messages.create(
        model=MODEL, messages=[asked], tools=tools, tool_choice={"type": "any"}, max_tokens=60
    )
    calls = [block for block in answer.content if block.type == "tool_use"]
    check(calls, answer)
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in calls]
    history: Any = [
        asked,
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": results},
    ]
    second = client.messages.create(model=MODEL, messages=history, tools=tools, max_tokens=20)
    check(second.content, second)


def tool_runner() -> None:
    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: its name
        """
        return f"rain in {city}"

    runner = client.beta.messages.tool_runner(
        model=MODEL, messages=[asked], tools=[weather], max_tokens=30, max_iterations=2
    )
    check(runner.until_done().content, "no content")


def counted() -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=[asked], tools=tools)
    check(counted.input_tokens > 0, counted)


drive(anthropic.__version__, chat, stream, tools_and_second_turn, tool_runner, counted)
