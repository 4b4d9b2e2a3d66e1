"""LangChain's models, and its agent."""

from importlib.metadata import version
from typing import Any

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from steps import CITIES, KEY, MODEL, QUESTION, URL, check, drive

openai: dict[str, Any] = {"model": MODEL, "base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0}
chat_model = ChatOpenAI(**openai, max_tokens=60)
responses_model = ChatOpenAI(**openai, max_tokens=60, use_responses_api=True)
claude_model = ChatAnthropic(model=MODEL, base_url=URL, api_key=KEY, max_retries=0, max_tokens=60)


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


weather.args_schema.model_fields["city"].json_schema_extra = {"enum": list(CITIES)}
weather.args_schema.model_rebuild(force=True)


def turns(model: Any) -> None:
    check(model.invoke(QUESTION).content, "no content")
    check(list(model.stream(QUESTION)), "no parts")
    asked = HumanMessage(QUESTION)
    answer = model.bind_tools([weather], tool_choice="any").invoke([asked])
    check(answer.tool_calls, answer)
    results = [ToolMessage("rain", tool_call_id=call["id"]) for call in answer.tool_calls]
    model.bind_tools([weather]).invoke([asked, answer, *results])


def chat_completions() -> None:
    turns(chat_model)


def responses() -> None:
    turns(responses_model)


def messages() -> None:
    turns(claude_model)


def agent() -> None:
    for model in (chat_model, responses_model, claude_model):
        answer = create_agent(model, tools=[weather]).invoke({"messages": [HumanMessage(QUESTION)]})
        check(len(answer["messages"]) >= 2, answer)


drive(version("langchain"), chat_completions, responses, messages, agent)
