"""Pydantic AI's agents: text, a tool, an answer of a type, a second turn with the agent's own history."""

from importlib.metadata import version
from typing import Any, Literal

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from steps import KEY, MODEL, QUESTION, URL, check, drive

openai = OpenAIProvider(openai_client=AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0))
claude = AnthropicProvider(anthropic_client=AsyncAnthropic(base_url=URL, api_key=KEY, max_retries=0))
limit: Any = {"max_tokens": 60}


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "London", "Rome"]
    raining: bool


def turns(model: Any) -> None:
    agent = Agent(model, model_settings=limit)

    @agent.tool_plain
    def weather(city: Literal["Paris", "London", "Rome"]) -> str:
        """The weather of a city."""
        return f"rain in {city}"

    first = agent.run_sync(QUESTION)
    check(first.output, first)
    second = agent.run_sync("And of Italy?", message_history=first.all_messages())
    check(second.output, second)
    # An output type is a tool that must be called.
    typed = Agent(model, output_type=Weather, model_settings=limit).run_sync(QUESTION)
    check(isinstance(typed.output, Weather), typed)
    again = agent.run_sync("And of Italy?", message_history=typed.all_messages())
    check(again.output, again)
    with agent.run_stream_sync(QUESTION) as events:
        check(events.get_output(), "no text")


def chat_completions() -> None:
    turns(OpenAIChatModel(MODEL, provider=openai))


def responses() -> None:
    turns(OpenAIResponsesModel(MODEL, provider=openai))


def messages() -> None:
    turns(AnthropicModel(MODEL, provider=claude))


drive(version("pydantic-ai-slim"), chat_completions, responses, messages)
