"""Anthropic's requests as asks."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from sampan.core.types import Grammar, SamplingParams
from sampan.server import thinking
from sampan.server.anthropic.schemas import (
    Block,
    CountRequest,
    Message,
    MessagesRequest,
    NamedChoice,
    NoChoice,
    TextBlock,
    ThinkingAdaptive,
    ThinkingBlock,
    ThinkingEnabled,
    ToolResultBlock,
    ToolUseBlock,
)
from sampan.server.ask import Ask, Caller, Tools
from sampan.server.errors import bad_request
from sampan.server.offer import offer
from sampan.server.service import Service
from sampan.server.text import ModelText

_ROLES = {"user": ("text", "tool_result"), "assistant": ("text", "thinking", "tool_use"), "system": ("text",)}
_SAME_NAME = ("max_tokens", "temperature", "top_p", "top_k")


def sampling_of(body: MessagesRequest, text: ModelText) -> SamplingParams:
    """The request's sampling; the model's own for what is not given."""
    given = {name: value for name in _SAME_NAME if (value := getattr(body, name)) is not None}
    stop, budget = tuple(body.stop_sequences or ()), budget_of(body)
    return replace(text.defaults, **given, stop=stop, max_reasoning_tokens=budget)


async def ask_of(body: CountRequest, service: Service, caller: Caller, sampling: SamplingParams) -> Ask:
    """The request as an ask; `ApiError` for what contradicts itself or is not served."""
    config = body.output_config
    grammar = None
    if config is not None and config.format is not None:
        grammar = Grammar("json_schema", json.dumps(config.format.schema_))
    tools = tools_of(body)
    return await service.conversation(
        template_messages(body),
        sampling,
        caller,
        model=body.model,
        n=1,
        grammar=grammar,
        tools=tools,
        variables=variables_of(body, service),
    )


def budget_of(body: MessagesRequest) -> int | None:
    """For how many tokens the model may think; None where only `max_tokens` says."""
    if not isinstance(body.thinking, ThinkingEnabled):
        return None
    if body.thinking.budget_tokens >= body.max_tokens:
        raise bad_request(
            f"thinking.budget_tokens is {body.thinking.budget_tokens}: it must be less than max_tokens",
            param="thinking.budget_tokens",
        )
    return body.thinking.budget_tokens


def tools_of(body: CountRequest) -> Tools | None:
    """The tools of a request; None where there are none to call."""
    functions = []
    for tool in body.tools or ():
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
    rows = []
    if body.system:
        rows.append({"role": "system", "content": _lines(body.system)})
    for role, turns in groupby(enumerate(body.messages), lambda turn: turn[1].role):
        blocks = [block for place, message in turns for block in _blocks(place, message)]
        rows += [_assistant(blocks)] if role == "assistant" else list(_others(role, blocks))
    return rows


def variables_of(body: CountRequest, service: Service) -> dict[str, Any]:
    """What the chat template is told of thinking."""
    if body.thinking is None:
        return {}
    if isinstance(body.thinking, ThinkingAdaptive):
        return {"enable_thinking": True} if service.thinking.switched else {}
    return thinking.variables(service, isinstance(body.thinking, ThinkingEnabled), param="thinking")


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
