"""OpenAI's answers: what the documents look like, and pieces that several endpoints share."""

import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel

from sampan.core.types import TokenLogprob, TokenScore
from sampan.server.ask import Usage
from sampan.server.errors import ApiError
from sampan.text.tokenizer import Tokenizer


class PromptDetails(BaseModel):
    """`cached_tokens`: of the prompt, that an earlier request had computed."""

    cached_tokens: int


class CompletionDetails(BaseModel):
    """`reasoning_tokens`: of the answer, that were thought."""

    reasoning_tokens: int


class UsageRow(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TopLogprob(BaseModel):
    """A token that might have been chosen. `bytes`: a token may be a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TopLogprob):
    """A token that was chosen, and its best alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of each token of the answer."""

    content: list[ContentLogprob]
    refusal: None


class CalledFunction(BaseModel):
    """`arguments`: JSON text."""

    name: str
    arguments: str


class MadeCall(BaseModel):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(BaseModel):
    """`reasoning_content` and `tool_calls` are there only where there are some."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[MadeCall] | None = None


class ChatChoice(BaseModel):
    """One of `n` answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class PromptLogprob(BaseModel):
    """Of a token of the prompt, or of an alternative to it. `rank`: 1 is the most probable."""

    logprob: float
    rank: int
    decoded_token: str


PromptRows = list[dict[str, PromptLogprob] | None]
"""Of each token of the prompt by token id; the first has none."""


class ChatCompletion(BaseModel):
    """The answer of `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageRow
    prompt_logprobs: PromptRows | None = None


class CompletionLogprobs(BaseModel):
    """Of each token of a completion."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One of the texts."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]
    prompt_logprobs: PromptRows | None = None


class TextCompletion(BaseModel):
    """The answer of `/v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: UsageRow


def usage_row(usage: Usage) -> dict[str, Any]:
    """Usage as a JSON object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def chat_logprobs(tokenizer: Tokenizer, tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Log-probabilities as a JSON object."""
    rows = []
    for chosen in tokens:
        top = [_token_row(tokenizer, token, logprob) for token, logprob in chosen.top]
        rows.append({**_token_row(tokenizer, chosen.token, chosen.logprob), "top_logprobs": top})
    return {"content": rows, "refusal": None}


def prompt_rows(tokenizer: Tokenizer, scores: Iterable[TokenScore]) -> list[dict[str, Any] | None]:
    """The prompt's tokens as vLLM's API has them."""
    rows: list[dict[str, Any] | None] = [None]
    for score in scores:
        ranked = [(token, logprob, rank) for rank, (token, logprob) in enumerate(score.top, 1)]
        own = (score.token, score.logprob, score.rank)
        rows.append(
            {
                str(token): {"logprob": value, "rank": rank, "decoded_token": token_text(tokenizer, token)}
                for token, value, rank in (own, *ranked)
            }
        )
    return rows


def text_json(text: str) -> str:
    """A JSON string."""
    return json.dumps(text, ensure_ascii=False)


def error_row(error: ApiError) -> dict[str, Any]:
    """An error as a JSON object."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def error_event(error: ApiError) -> bytes:
    """An error in a stream that has begun; the stream ends with it."""
    return f"data: {json.dumps(error_row(error), ensure_ascii=False)}\n\n".encode()


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """What a token alone decodes to: half a character becomes U+FFFD."""
    return tokenizer.token_bytes(token).decode("utf-8", "replace")


def _token_row(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}
