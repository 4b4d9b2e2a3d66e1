"""curl, plain and with --http2, which asks a plain server for HTTP/2 (`Upgrade: h2c`)."""

import json
import subprocess
from typing import Any

from steps import KEY, MODEL, QUESTION, URL, WEATHER, check, drive

asked: Any = {"role": "user", "content": QUESTION}
tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]


def curl(*options: str, **body: Any) -> str:
    command = ["curl", "--silent", "--show-error", "--fail-with-body", *options, "--json", "@-"]
    command += ["--header", f"authorization: Bearer {KEY}", f"{URL}/v1/chat/completions"]
    done = subprocess.run(
        command, input=json.dumps({"model": MODEL, "max_tokens": 60, **body}), capture_output=True, text=True
    )
    check(done.returncode == 0, done.stdout + done.stderr)
    return done.stdout


def chat() -> None:
    check(json.loads(curl(messages=[asked]))["choices"][0]["message"]["content"], "no content")


def stream() -> None:
    check(curl("--no-buffer", messages=[asked], stream=True).rstrip().endswith("data: [DONE]"), "no end")


def http2() -> None:
    check(json.loads(curl("--http2", messages=[asked]))["choices"], "no choices")


def tools_and_second_turn() -> None:
    one = {"tools": tools, "parallel_tool_calls": False}
    message = json.loads(curl(messages=[asked], tool_choice="required", **one))["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "rain"}
    check(json.loads(curl(messages=[asked, message, result], **one))["choices"], "no choices")


version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
drive(version, chat, stream, http2, tools_and_second_turn)
