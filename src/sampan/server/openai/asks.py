"""OpenAI's requests as asks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sampan.core.errors import quoted
from sampan.core.types import SamplingParams, Scoring
from sampan.server.ask import Tools
from sampan.server.errors import bad_request
from sampan.server.offer import offer
from sampan.server.openai.schemas import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Sampling,
    ToolDefinition,
    dumped,
)
from sampan.server.text import ModelText
from sampan.server.thinking import Answering, Plan, planned

_SAME_NAME = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "seed", "ignore_eos",
)  # fmt: skip
_MOST_SCORED = 2**16
_TEMPLATE_OWN = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token")
)


def sampling_of(request: Sampling, text: ModelText, *, logprobs: int | None) -> SamplingParams:
    """The request's sampling; the model's own for what is not given."""
    given: dict[str, Any] = {
        name: value for name in _SAME_NAME if (value := getattr(request, name)) is not None
    }
    if request.max_tokens == -1:  # as long as there is room
        given["max_tokens"] = given["max_length"] = None
    elif request.max_tokens is not None:
        given["max_tokens"] = request.max_tokens
    if given.get("top_k") == -1:
        given["top_k"] = 0
    stop = request.stop if isinstance(request.stop, list) else [request.stop] if request.stop else []
    bias = _bias(request.logit_bias or {}, text.vocabulary)
    stops = tuple(request.stop_token_ids or ())
    if stops and max(stops) >= text.vocabulary:
        raise bad_request(
            f"stop_token_ids has {max(stops)}: token ids are below {text.vocabulary}",
            param="stop_token_ids",
        )
    stop = [*stop, *text.defaults.stop]
    return replace(
        text.defaults, **given, stop=tuple(stop), stop_token_ids=stops, logit_bias=bias, logprobs=logprobs
    )


def scoring_of(request: ChatRequest | CompletionRequest) -> Scoring | None:
    """How the prompt's own tokens are scored, if they are."""
    if request.prompt_logprobs is not None and request.stream:
        raise bad_request("prompt_logprobs are not streamed: leave stream out", param="prompt_logprobs")
    top = request.prompt_logprobs
    if isinstance(request, CompletionRequest) and request.echo and request.logprobs is not None:
        top = max(request.logprobs, top or 0)
    return None if top is None else Scoring(top=top, ranks=request.prompt_logprobs is not None)


def check_scored(request: ChatRequest | CompletionRequest, tokens: int) -> None:
    """A 400 where the prompts' rows, which are written on the event loop, would hold up everybody else.

    `tokens`: of all prompts. A row counts for its token and for each alternative, one of `prompt_logprobs`
    twice: it is as long.
    """
    rows = 0
    if isinstance(request, CompletionRequest) and request.echo:
        rows += 1 + (request.logprobs or 0)
    if request.prompt_logprobs is not None:
        rows += 2 * (1 + request.prompt_logprobs)
    most, answers = _MOST_SCORED // max(rows, 1), request.n or 1
    if rows and tokens * answers > most:
        given = (
            f"{tokens} tokens of prompts for {answers} answers"
            if answers > 1
            else f"{tokens} tokens of prompts"
        )
        raise bad_request(
            f"{given}: with echo and alternatives as asked, at most {most} are told of in one request",
            param="prompt",
        )


def _bias(given: Mapping[str, float], vocabulary: int) -> dict[int, float]:
    bias = {}
    for token, value in given.items():
        if not re.fullmatch("[0-9]{1,10}", token) or int(token) >= vocabulary:
            raise bad_request(
                f"logit_bias has the key {quoted(token)}: keys are token ids below {vocabulary}",
                param="logit_bias",
            )
        bias[int(token)] = value
    return bias


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages as chat templates know them."""
    return [
        _message(place, message.model_dump(exclude_none=True, exclude=_ANSWERS_OWN))
        for place, message in enumerate(messages)
    ]


_ANSWERS_OWN: Any = {"annotations": True, "tool_calls": {"__all__": {"index"}}}
"""What an answer of this API has and no template knows."""


def _message(place: int, message: dict[str, Any]) -> dict[str, Any]:
    role = message["role"]
    content = message.get("content")
    refusal = message.pop("refusal", None)
    content = content or refusal or content
    if content is None and role != "assistant":
        raise bad_request(
            f"messages[{place}] of role {role} has no content", param=f"messages.{place}.content"
        )
    if role == "tool" and "tool_call_id" not in message:
        raise bad_request(
            f"messages[{place}] answers no call: give tool_call_id", param=f"messages.{place}.tool_call_id"
        )
    if isinstance(content, list):
        content = "".join(part[part["type"]] for part in content)
    if content is None and not message.get("tool_calls"):
        content = ""  # an answer that was cut before it said anything
    return {**message, "role": "system" if role == "developer" else role, "content": content}


def tools_of(request: ChatRequest) -> Tools | None:
    """The tools of a request; None where there are none to call."""
    choice = request.tool_choice or "auto"
    name = choice if isinstance(choice, str) else choice.function.name
    functions = [dumped(tool.function) for tool in request.tools or () if isinstance(tool, ToolDefinition)]
    parallel = request.parallel_tool_calls is not False
    return offer(functions, name, named=not isinstance(choice, str), parallel=parallel)


def thinking_of(request: ChatRequest, service: Answering) -> Plan:
    """What the chat template is told and for how long the model may think.

    What the service gives the template itself cannot be replaced.
    """
    given = dict(request.chat_template_kwargs or {})
    own = sorted(_TEMPLATE_OWN & given.keys())
    if own:
        raise bad_request(f"chat_template_kwargs may not set {own[0]}", param="chat_template_kwargs")
    plan, effort = Plan({}, None), request.reasoning_effort
    if effort is not None:
        plan = planned(service, effort != "none", param="reasoning_effort", effort=effort)
    most = request.max_reasoning_tokens
    return Plan({**plan.variables, **given}, plan.budget if most is None else most)
