"""OpenAI's agents library: a tool, then its result, over both interfaces; a session's next turn."""

import asyncio
from importlib.metadata import version
from typing import Any, Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from steps import KEY, MODEL, QUESTION, URL, check, drive

set_tracing_disabled(True)


@function_tool
def weather(city: Literal["Paris", "London", "Rome"]) -> str:
    """The weather of a city."""
    return f"rain in {city}"


async def turns(model: Any) -> None:
    # The library lets the model choose again once the tool was called.
    settings = ModelSettings(tool_choice="required", temperature=0, parallel_tool_calls=False)
    agent = Agent("Helper", instructions="Be short.", tools=[weather], model=model, model_settings=settings)
    session = SQLiteSession("turns")
    first = await Runner.run(agent, QUESTION, session=session, max_turns=4)
    check(any(item.type == "tool_call_output_item" for item in first.new_items), first.new_items)
    second = await Runner.run(agent, "And of Italy?", session=session, max_turns=4)
    check(second.new_items, second)
    streamed = Runner.run_streamed(agent, QUESTION, max_turns=4)
    async for _ in streamed.stream_events():
        pass
    check(streamed.new_items, streamed)


def service() -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)


def responses() -> None:
    asyncio.run(turns(OpenAIResponsesModel(MODEL, openai_client=service())))


def chat_completions() -> None:
    asyncio.run(turns(OpenAIChatCompletionsModel(MODEL, openai_client=service())))


drive(version("openai-agents"), responses, chat_completions)
