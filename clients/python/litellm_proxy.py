"""LiteLLM's proxy in front of the service, and OpenAI's SDK in front of that."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import openai
from steps import KEY, MODEL, QUESTION, URL, WEATHER, check, drive

PATIENCE_S = 600
asked: dict[str, Any] = {"role": "user", "content": QUESTION}
tools: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]


@contextmanager
def proxy(folder: Path) -> Iterator[str]:
    """The address of a proxy that knows the service's model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    leads = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": KEY}
    settings = {"model_list": [{"model_name": MODEL, "litellm_params": leads}]}
    (folder / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    command = [str(Path(sys.executable).with_name("litellm")), "--config", "config.yaml"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            until = time.monotonic() + PATIENCE_S
            while not answers(f"http://127.0.0.1:{port}/health/liveliness"):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the proxy did not start: " + (folder / "log").read_text()[-300:])
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).is_success
    except httpx.HTTPError:
        return False


def chat() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=[asked], max_tokens=20)
    check(answer.choices[0].message.content, answer)


def stream() -> None:
    parts = client.chat.completions.create(model=MODEL, messages=[asked], max_tokens=20, stream=True)
    check("".join(part.choices[0].delta.content or "" for part in parts if part.choices), "no text")


def tools_and_second_turn() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[asked], tools=tools, tool_choice="required", max_tokens=60
    )
    message = answer.choices[0].message
    check(message.tool_calls, answer)
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls or []
    ]
    history = [asked, message.model_dump(), *results]
    second = client.chat.completions.create(model=MODEL, messages=history, tools=tools, max_tokens=20)
    check(second.choices[0].message.content is not None, second)


def responses() -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}
    ways: dict[str, Any] = {"model": MODEL, "include": ["reasoning.encrypted_content"], "store": False}
    first = client.responses.create(
        input=[asked], tools=[tool], tool_choice="required", max_output_tokens=60, **ways
    )
    calls = [item for item in first.output if item.type == "function_call"]
    check(calls, first)
    history: list[Any] = [asked, *(item.model_dump(exclude_none=True) for item in first.output)]
    history += [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls]
    second = client.responses.create(input=history, tools=[tool], max_output_tokens=20, **ways)
    check(second.output, second)
    events = client.responses.create(input=[asked], max_output_tokens=20, stream=True, **ways)
    check([event.type for event in events][-1] in ("response.completed", "response.incomplete"), "no end")


with tempfile.TemporaryDirectory() as place, proxy(Path(place)) as address:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="sk-any", max_retries=0, timeout=120)
    drive(version("litellm"), chat, stream, tools_and_second_turn, responses)
