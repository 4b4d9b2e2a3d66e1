"""Anthropic's requests as asks."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from sampan.core.errors import quoted
from sampan.core.types import Grammar, SamplingParams
from sampan.server.anthropic.schemas import (
    Block,
    CountRequest,
    GoneThread,
    Message,
    MessagesRequest,
    NamedChoice,
    NoChoice,
    TextBlock,
    ThinkingBlock,
    ThinkingDisabled,
    ThinkingEnabled,
    Thread,
    ToolResultBlock,
    ToolUseBlock,
)
from sampan.server.ask import Ask, Caller, Tools
from sampan.server.errors import ApiError, bad_request
from sampan.server.fields import Ignored
from sampan.server.offer import offer
from sampan.server.service import Service
from sampan.server.text import ModelText
from sampan.server.thinking import Plan, planned
from sampan.server.watch import logs

_ROLES = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
_SAME_NAME = ("max_tokens", "temperature", "top_p", "top_k")


def sampling_of(body: MessagesRequest, text: ModelText) -> SamplingParams:
    """The request's sampling; the model's own for what is not given."""
    given = {name: value for name in _SAME_NAME if (value := getattr(body, name)) is not None}
    if body.top_k == -1:
        given["top_k"] = 0
    return replace(text.defaults, **given, stop=(*(body.stop_sequences or ()), *text.defaults.stop))


async def ask_of(body: MessagesRequest, service: Service, caller: Caller) -> Ask:
    """The request as an ask; `ApiError` for what contradicts itself or is not served."""
    check_thread(body.thread)
    thinking = body.thinking
    if isinstance(thinking, ThinkingEnabled) and thinking.budget_tokens >= body.max_tokens:
        raise bad_request(
            f"thinking.budget_tokens is {thinking.budget_tokens}: it must be less than max_tokens",
            param="thinking.budget_tokens",
        )
    plan = thinking_of(body, service)
    config = body.output_config
    grammar = None
    if config is not None and config.format is not None:
        grammar = Grammar("json_schema", json.dumps(config.format.schema_))
    tools = tools_of(body)
    ask = await service.conversation(
        template_messages(body),
        replace(sampling_of(body, service.text), max_reasoning_tokens=plan.budget),
        caller,
        model=body.model,
        n=1,
        grammar=grammar,
        tools=tools,
        variables=plan.variables,
    )
    return ask if grammar is None else replace(ask, constraint="output_config.format")


def thinking_of(body: CountRequest, service: Service) -> Plan:
    """What the chat template is told of thinking, and for how long the model may think."""
    effort = body.output_config.effort if body.output_config is not None else None
    wanted = body.thinking
    if isinstance(wanted, ThinkingEnabled):
        return planned(service, True, param="thinking", effort=effort, budget=wanted.budget_tokens)
    if isinstance(wanted, ThinkingDisabled):
        return planned(service, False, param="thinking")
    if wanted is None and effort is None:
        return Plan({}, None)
    param = None if effort is None else "output_config.effort"
    plan = planned(service, True, param=param, effort=effort)
    return plan if wanted is not None else Plan({}, plan.budget)


def check_thread(thread: Thread | None) -> None:
    """Nothing is kept of a conversation: a 404 for one to go on with, by which clients send it whole."""
    if isinstance(thread, GoneThread):
        message = (
            f"the thread of {quoted(thread.previous_message_id)} is not here: send the whole conversation"
        )
        raise ApiError(404, message, code="thread_not_found", param="thread.previous_message_id")
    if thread is not None:
        logs.ignore([Ignored("thread", known=True)])


def tools_of(body: CountRequest) -> Tools | None:
    """The tools of a request; None where there are none to call."""
    functions = []
    for tool in body.functions:
        given = {"description": tool.description, "parameters": tool.input_schema, "strict": tool.strict}
        functions.append({"name": tool.name, **{k: v for k, v in given.items() if v is not None}})
    choice = body.tool_choice
    if choice is None:
        return offer(functions, "auto")
    if isinstance(choice, NoChoice):
        return offer(functions, "none")
    parallel = choice.disable_parallel_tool_use is not True
    if isinstance(choice, NamedChoice):
        return offer(functions, choice.name, named=True, parallel=parallel)
    return offer(functions, "required" if choice.type == "any" else "auto", parallel=parallel)


def template_messages(body: CountRequest) -> list[dict[str, Any]]:
    """The conversation as chat templates know it. Blocks of text become lines."""
    if body.messages[-1].role == "assistant":
        raise bad_request(
            "the last message is the assistant's: beginning an answer for it is not supported",
            param=f"messages.{len(body.messages) - 1}.role",
        )
    _check_results(body.messages)
    rows = []
    if body.system:
        rows.append({"role": "system", "content": _lines(body.system)})
    for role, turns in groupby(enumerate(body.messages), lambda turn: turn[1].role):
        blocks = [block for place, message in turns for block in _blocks(place, message)]
        rows += [_assistant(blocks)] if role == "assistant" else list(_others(role, blocks))
    return rows


def _check_results(messages: Sequence[Message]) -> None:
    """A 400 for a result that stands behind something else of its turn, or is of no call before it."""
    calls: set[str] = set()
    spoken = False
    for place, message in enumerate(messages):
        for number, block in enumerate(message.content):
            where = f"messages.{place}.content.{number}"
            if isinstance(block, ToolResultBlock):
                if block.tool_use_id not in calls:
                    name = quoted(block.tool_use_id)
                    why = f"no tool_use of the assistant's turn before it has the id {name}"
                    raise bad_request(f"{where}.tool_use_id: {why}", param=f"{where}.tool_use_id")
                if spoken:
                    raise bad_request(
                        f"{where}: tool_result blocks must come first in their turn", param=where
                    )
            spoken = spoken or (message.role == "user" and not isinstance(block, ToolResultBlock))
        if message.role == "assistant":
            if place == 0 or messages[place - 1].role != "assistant":
                calls, spoken = set(), False
            calls |= {block.id for block in message.content if isinstance(block, ToolUseBlock)}


def _blocks(place: int, message: Message) -> list[Block]:
    for n, block in enumerate(message.content):
        if block.type not in _ROLES[message.role]:
            raise bad_request(
                f"messages.{place}.content.{n} is a {block.type}, which no message of {message.role} has",
                param=f"messages.{place}.content.{n}.type",
            )
    if not message.content and message.role != "assistant":
        raise bad_request(f"messages.{place}.content is empty", param=f"messages.{place}.content")
    return message.content


def _assistant(blocks: Sequence[Block]) -> dict[str, Any]:
    thought = "\n".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    calls = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    row: dict[str, Any] = {"role": "assistant", "content": _lines(blocks)}
    if thought:
        row["reasoning_content"] = thought
    if calls:
        row["tool_calls"] = calls
    return row


def _call(block: ToolUseBlock) -> dict[str, Any]:
    function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
    return {"id": block.id, "type": "function", "function": function}


def _others(role: str, blocks: Sequence[Block]) -> Iterator[dict[str, Any]]:
    """Results are messages of their own to a template."""
    for is_result, group in groupby(blocks, lambda block: isinstance(block, ToolResultBlock)):
        if is_result:
            yield from (_result(block) for block in group if isinstance(block, ToolResultBlock))
        else:
            yield {"role": role, "content": _lines(list(group))}


def _result(block: ToolResultBlock) -> dict[str, Any]:
    text = ("Error: " if block.is_error else "") + _lines(block.content or ())
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}


def _lines(blocks: Sequence[Block]) -> str:
    return "\n".join(block.text for block in blocks if isinstance(block, TextBlock))
