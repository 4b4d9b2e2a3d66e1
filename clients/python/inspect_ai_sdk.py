"""inspect-ai's `openai/` provider, by both of OpenAI's interfaces, and `openai-api/`, for other services."""

import asyncio
from importlib.metadata import version
from typing import Any

from inspect_ai.model import (
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    Model,
    get_model,
)
from inspect_ai.tool import ToolInfo, ToolParams
from steps import CITIES, KEY, MODEL, QUESTION, URL, check, drive

where: dict[str, Any] = {"base_url": f"{URL}/v1", "api_key": KEY, "memoize": False}
short = GenerateConfig(max_tokens=60, max_retries=0, timeout=300)
city: Any = {"type": "string", "enum": list(CITIES), "description": "where"}
weather = ToolInfo(
    name="weather",
    description="The weather of a city.",
    parameters=ToolParams(properties={"city": city}, required=["city"]),
)


async def turns(model: Model) -> None:
    """An answer, a call, and what comes of its result."""
    history: list[Any] = [ChatMessageUser(content=QUESTION)]
    answer = await model.generate(history, config=short)
    check(answer.completion, answer)
    called = await model.generate(history, tools=[weather], tool_choice="any", config=short)
    calls = called.message.tool_calls or []
    check(calls, called)
    history.append(called.message)
    history += [
        ChatMessageTool(content="rain", tool_call_id=call.id, function=call.function) for call in calls
    ]
    second = await model.generate(history, tools=[weather], config=short)
    check(second.choices, second)


def chat_completions() -> None:
    asyncio.run(turns(get_model(f"openai/{MODEL}", responses_api=False, **where)))


def responses() -> None:
    asyncio.run(turns(get_model(f"openai/{MODEL}", responses_api=True, **where)))


def openai_api() -> None:
    asyncio.run(turns(get_model(f"openai-api/sampan/{MODEL}", **where)))


def openai_api_streamed() -> None:
    asyncio.run(turns(get_model(f"openai-api/sampan/{MODEL}", stream=True, **where)))


drive(version("inspect-ai"), chat_completions, responses, openai_api, openai_api_streamed)
