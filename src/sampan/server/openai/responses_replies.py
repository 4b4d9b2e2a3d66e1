"""Answers of OpenAI's responses: what the documents look like, and items made of an answer's runs."""

from typing import Any, Literal

from pydantic import BaseModel, JsonValue

from sampan.server.ask import Usage
from sampan.server.collect import Run
from sampan.server.openai.namespaces import Namespaces
from sampan.server.openai.replies import ContentLogprob, chat_logprobs
from sampan.server.openai.responses_schemas import (
    CallItem,
    FunctionChoice,
    FunctionTool,
    InputText,
    MessageItem,
    NamespaceTool,
    ReasoningItem,
    ReasoningText,
    Status,
    SummaryText,
    TextConfig,
)
from sampan.server.openai.sealed import sealed
from sampan.server.text import ModelText


class ResponseText(BaseModel):
    """Text of the answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[JsonValue]
    logprobs: list[ContentLogprob]


class ResponseMessage(BaseModel):
    """A message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Status
    content: list[ResponseText]


class ResponseCall(BaseModel):
    """A call that the model makes."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: str | None = None
    arguments: str
    status: Status


class ResponseReasoning(BaseModel):
    """What the model thought, whole."""

    id: str
    type: Literal["reasoning"]
    summary: list[SummaryText]
    content: list[ReasoningText]
    encrypted_content: str | None = None
    status: Status


class ResponseInputDetails(BaseModel):
    """`cached_tokens`: of the prompt, that an earlier request had computed."""

    cached_tokens: int
    cache_write_tokens: int


class ResponseOutputDetails(BaseModel):
    """`reasoning_tokens`: of the answer, that were thought."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Tokens."""

    input_tokens: int
    input_tokens_details: ResponseInputDetails
    output_tokens: int
    output_tokens_details: ResponseOutputDetails
    total_tokens: int


class ResponseFailure(BaseModel):
    """Why there is no answer."""

    code: str
    message: str


class ResponseIncomplete(BaseModel):
    """Why there is not all of it."""

    reason: Literal["max_output_tokens"]


class ResponseEffort(BaseModel):
    """As asked for."""

    effort: str | None
    summary: None


class ResponseDocument(BaseModel):
    """The answer of `/v1/responses`: what was asked for, and `output`."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False]
    error: ResponseFailure | None
    incomplete_details: ResponseIncomplete | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[ResponseMessage | ResponseCall | ResponseReasoning]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ResponseEffort
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: TextConfig
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice
    tools: list[FunctionTool | NamespaceTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None


class ListedResult(BaseModel):
    """What a call returned."""

    id: str
    type: Literal["function_call_output"]
    call_id: str
    output: list[InputText]
    status: Status


class ItemList(BaseModel):
    """What a response was asked with, a page of it."""

    object: Literal["list"]
    data: list[MessageItem | CallItem | ListedResult | ReasoningItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ResponseDeleted(BaseModel):
    """It is gone."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class Items:
    """The runs of one answer as items. `logprobs`: whether text comes with log-probabilities; `encrypted`:
    whether reasoning comes sealed, too."""

    def __init__(
        self, text: ModelText, name: str, functions: Namespaces, *, logprobs: bool, encrypted: bool
    ) -> None:
        self._tokenizer = text.tokenizer
        self._name = name
        self._functions = functions
        self._logprobs = logprobs
        self._encrypted = encrypted

    def id(self, run: Run) -> str:
        """The item's id."""
        prefix = {"reasoning": "rs", "text": "msg", "call": "fc"}[run.kind]
        return f"{prefix}_{self._name}{run.place:x}"

    def item(self, run: Run, status: Status, *, empty: bool = False) -> dict[str, Any]:
        """The item; `empty`: as it begins."""
        if run.kind == "call":
            name = self._functions.apart(run.name)
            call = {"call_id": run.id, **name, "arguments": "" if empty else run.text}
            return {"id": self.id(run), "type": "function_call", **call, "status": status}
        content = [] if empty else [self.part(run)]
        if run.kind == "reasoning":
            thought: dict[str, Any] = {"summary": [], "content": content}
            if self._encrypted:
                thought["encrypted_content"] = "" if empty else sealed(run.text)
            return {"id": self.id(run), "type": "reasoning", **thought, "status": status}
        message = {"role": "assistant", "content": content}
        return {"id": self.id(run), "type": "message", **message, "status": status}

    def part(self, run: Run, *, empty: bool = False) -> dict[str, Any]:
        """The one part of an item's content."""
        text = "" if empty else run.text
        if run.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        rows = [] if empty else self.logprobs(run.tokens)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": rows}

    def logprobs(self, tokens: Any) -> list[dict[str, Any]]:
        """Log-probabilities, where they are wanted."""
        rows: list[dict[str, Any]] = []
        if self._logprobs:
            rows = chat_logprobs(self._tokenizer, tokens)["content"]
        return rows


def usage_row(usage: Usage) -> dict[str, Any]:
    """Usage as a JSON object."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
