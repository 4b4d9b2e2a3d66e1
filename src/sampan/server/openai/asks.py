"""OpenAI's requests as asks."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sampan.core.errors import quoted
from sampan.core.types import Grammar, SamplingParams, Scoring
from sampan.server.ask import Tools
from sampan.server.errors import bad_request
from sampan.server.offer import offer
from sampan.server.openai.schemas import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    GrammarField,
    PlainFormat,
    Sampling,
    SchemaFormat,
    dumped,
)
from sampan.server.text import ModelText
from sampan.server.thinking import EFFORTS, Answering, variables

_SAME_NAME = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "seed", "ignore_eos", "max_tokens",
)  # fmt: skip
_MOST_SCORED = 2**16
_TEMPLATE_OWN = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token")
)


def sampling_of(request: Sampling, text: ModelText, *, logprobs: int | None) -> SamplingParams:
    """The request's sampling; the model's own for what is not given."""
    given = {name: value for name in _SAME_NAME if (value := getattr(request, name)) is not None}
    stop = request.stop if isinstance(request.stop, list) else [request.stop] if request.stop else []
    bias = _bias(request.logit_bias or {}, text.vocabulary)
    return replace(text.defaults, **given, stop=tuple(stop), logit_bias=bias, logprobs=logprobs)


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


def grammar_of(request: ChatRequest | Sampling) -> Grammar | None:
    """What the answer must look like."""
    form = request.response_format if isinstance(request, ChatRequest) else None
    grammars = [*_from_format(form), *_from_field(request.grammar)]
    if len(grammars) > 1:
        raise bad_request("response_format and grammar exclude each other: give one", param="grammar")
    return grammars[0] if grammars else None


def _from_format(form: SchemaFormat | PlainFormat | None) -> list[Grammar]:
    if isinstance(form, SchemaFormat):
        return [Grammar("json_schema", json.dumps(form.json_schema.schema_))]
    return [Grammar("json_object")] if form is not None and form.type == "json_object" else []


def _from_field(field: GrammarField | None) -> list[Grammar]:
    if field is None:
        return []
    if isinstance(field.value, list) != (field.type == "choice"):
        raise bad_request(f"grammar.value of a {field.type} is not of the right type", param="grammar")
    return [Grammar(field.type, field.value if isinstance(field.value, str) else json.dumps(field.value))]


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
    return [_message(place, message.model_dump(exclude_none=True)) for place, message in enumerate(messages)]


def _message(place: int, message: dict[str, Any]) -> dict[str, Any]:
    role = message["role"]
    content = message.get("content")
    if content is None and role != "assistant":
        raise bad_request(
            f"messages[{place}] of role {role} has no content", param=f"messages.{place}.content"
        )
    if role == "tool" and "tool_call_id" not in message:
        raise bad_request(
            f"messages[{place}] answers no call: give tool_call_id", param=f"messages.{place}.tool_call_id"
        )
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    if content is None and not message.get("tool_calls"):
        content = ""  # an answer that was cut before it said anything
    return {**message, "role": "system" if role == "developer" else role, "content": content}


def tools_of(request: ChatRequest) -> Tools | None:
    """The tools of a request; None where there are none to call."""
    choice = request.tool_choice or "auto"
    name = choice if isinstance(choice, str) else choice.function.name
    functions = [dumped(tool.function) for tool in request.tools or ()]
    parallel = request.parallel_tool_calls is not False
    return offer(functions, name, named=not isinstance(choice, str), parallel=parallel)


def reasoning_of(request: ChatRequest) -> int | None:
    """For how many tokens the model may think."""
    if request.max_reasoning_tokens is not None:
        return request.max_reasoning_tokens
    return EFFORTS.get(request.reasoning_effort or "")


def variables_of(request: ChatRequest, service: Answering) -> dict[str, Any]:
    """What else the chat template is given; what the service gives it itself cannot be replaced."""
    given = dict(request.chat_template_kwargs or {})
    own = sorted(_TEMPLATE_OWN & given.keys())
    if own:
        raise bad_request(f"chat_template_kwargs may not set {own[0]}", param="chat_template_kwargs")
    effort = request.reasoning_effort
    if effort is None:
        return given
    return {**variables(service, effort != "none", param="reasoning_effort"), **given}
