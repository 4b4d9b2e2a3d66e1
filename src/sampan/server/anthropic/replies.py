"""Anthropic's answers: what the documents look like, and what is made of an answer's runs."""

import json
from typing import Any, Literal

from pydantic import BaseModel, JsonValue

from sampan.server.ask import Usage
from sampan.server.collect import Answer, Run
from sampan.server.errors import ApiError
from sampan.server.watch import logs
from sampan.text.tools import read_arguments

SIGNATURE = "unsigned"  # clients keep a block of thinking only if it has one


class MessageText(BaseModel):
    """Text."""

    type: Literal["text"]
    text: str


class MessageThinking(BaseModel):
    """What the model thought. `signature` says nothing."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class MessageToolUse(BaseModel):
    """A call. Arguments that are no JSON object, such as ones cut short, are the text of `INVALID_JSON`."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, JsonValue]


class MessageOutputDetails(BaseModel):
    """`thinking_tokens`: of the answer, that were thought."""

    thinking_tokens: int


class MessageUsage(BaseModel):
    """Tokens; those of the prompt that were not computed again count as `cache_read_input_tokens` only."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: MessageOutputDetails


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class MessageAnswer(BaseModel):
    """The answer of `/v1/messages`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[MessageText | MessageThinking | MessageToolUse]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(BaseModel):
    """The answer of `/v1/messages/count_tokens`."""

    input_tokens: int


class MessagesErrorCode(BaseModel):
    """A word for it, where there is one."""

    error_code: str


class MessagesErrorDetail(BaseModel):
    """What was wrong."""

    type: str
    message: str
    details: MessagesErrorCode | None = None


class MessagesError(BaseModel):
    """Every error of this API."""

    type: Literal["error"]
    error: MessagesErrorDetail
    request_id: str | None


def block(run: Run) -> dict[str, Any]:
    """A run as a block of content."""
    if run.kind == "reasoning":
        return {"type": "thinking", "thinking": run.text, "signature": SIGNATURE}
    if run.kind == "text":
        return {"type": "text", "text": run.text}
    return {"type": "tool_use", "id": run.id, "name": run.name, "input": read_arguments(run.text)}


def ending(answer: Answer, usage: Usage, max_tokens: int) -> dict[str, Any]:
    """Why it ended."""
    return {"stop_reason": _reason(answer, usage, max_tokens), "stop_sequence": answer.stop_text}


def usage_row(usage: Usage) -> dict[str, Any]:
    """Usage as a JSON object."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def request_headers() -> dict[str, str]:
    """The header that names this request, as this API calls it."""
    record = logs.current()
    return {} if record is None else {"request-id": record.id}


def error_row(error: ApiError) -> dict[str, Any]:
    """An error as a JSON object. This form has no place for the field that is wrong: the message names it."""
    message = error.message
    if error.param is not None and error.param not in message:
        message = f"{error.param}: {message}"
    details = {} if error.code is None else {"details": {"error_code": error.code}}
    return {
        "type": "error",
        "error": {"type": _KINDS.get(error.status, _kind(error.status)), "message": message, **details},
        "request_id": request_headers().get("request-id"),
    }


def event(name: str, data: dict[str, Any]) -> bytes:
    """A server-sent event; its type stands in its data too."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **data}, ensure_ascii=False)}\n\n".encode()


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _kind(status: int) -> str:
    return "invalid_request_error" if status < 500 else "api_error"


def _reason(answer: Answer, usage: Usage, max_tokens: int) -> StopReason:
    if answer.stop_text is not None:
        return "stop_sequence"
    if answer.finish == "length":
        full = usage.completion_tokens < max_tokens
        return "model_context_window_exceeded" if full else "max_tokens"
    return "tool_use" if answer.finish == "tool_calls" else "end_turn"
