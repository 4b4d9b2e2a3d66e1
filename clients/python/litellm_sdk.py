"""LiteLLM as a library, towards both interfaces."""

from importlib.metadata import version
from typing import Any

import litellm
from steps import KEY, MODEL, QUESTION, URL, WEATHER, check, drive

asked: Any = {"role": "user", "content": QUESTION}
tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
litellm.suppress_debug_info = True
to_openai: dict[str, Any] = {
    "model": f"openai/{MODEL}",
    "api_base": f"{URL}/v1",
    "api_key": KEY,
    "num_retries": 0,
}
to_anthropic: dict[str, Any] = {
    "model": f"anthropic/{MODEL}",
    "api_base": URL,
    "api_key": KEY,
    "num_retries": 0,
}


def turns(service: dict[str, Any]) -> None:
    plain = litellm.completion(**service, messages=[asked], max_tokens=20)
    check(plain.choices[0].message.content, plain)
    parts = litellm.completion(**service, messages=[asked], max_tokens=20, stream=True)
    check("".join(part.choices[0].delta.content or "" for part in parts), "no text")
    answer = litellm.completion(
        **service, messages=[asked], tools=tools, tool_choice="required", max_tokens=60
    )
    message = answer.choices[0].message
    check(message.tool_calls, answer)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
    second = litellm.completion(**service, messages=[asked, message, *results], tools=tools, max_tokens=20)
    check(second.choices, second)


def chat_completions() -> None:
    turns(to_openai)


def messages() -> None:
    turns(to_anthropic)


def responses() -> None:
    answer = litellm.responses(
        **to_openai, input=QUESTION, max_output_tokens=20, include=["reasoning.encrypted_content"]
    )
    check(answer.output, answer)


drive(version("litellm"), chat_completions, messages, responses)
