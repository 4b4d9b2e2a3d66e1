"""Requests of OpenAI's responses, as far as they are served; `fields.py` says what becomes of the rest.

Reference: https://platform.openai.com/docs/api-reference/responses.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, JsonValue, Tag

from sampan.server.elsewhere import SAMPLING
from sampan.server.fields import TEXT_ONLY, Skipped, Strict, lacks
from sampan.server.openai.schemas import (
    Arguments,
    Effort,
    FunctionName,
    Limit,
    PlainFormat,
    RefusalPart,
    Temperature,
    tool_kind,
)
from sampan.server.schemas import Body, Many

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Strict):
    """Text that was given."""

    hints = frozenset({"prompt_cache_breakpoint"})

    type: Literal["input_text"]
    text: str


class OutputText(Strict):
    """Text that the model gave before."""

    type: Literal["output_text"]
    text: str
    annotations: list[JsonValue] | None = None
    logprobs: list[JsonValue] | None = None


def _as_parts(value: Any) -> Any:
    """A text is short for one part."""
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


_Part = Annotated[InputText | OutputText | RefusalPart, Field(discriminator="type")]
Parts = Annotated[Many[_Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[_Part])]
Results = Annotated[Many[InputText], BeforeValidator(_as_parts, json_schema_input_type=str | list[InputText])]


class MessageItem(Strict):
    """A message."""

    hints = frozenset({"phase"})
    lacked = lacks("image", "images", "audio", "files", why=TEXT_ONLY)

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts
    id: str | None = None
    status: Status | None = None


class CallItem(Strict):
    """A call that the model has made; `arguments` is JSON text, or the beginning of some."""

    hints = frozenset({"async", "caller"})

    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: str | None = None
    arguments: Arguments
    id: str | None = None
    status: Status | None = None


class ResultItem(Strict):
    """What a call returned."""

    hints = frozenset({"caller", "name", "namespace"})

    type: Literal["function_call_output"]
    call_id: str
    output: Results
    id: str | None = None
    status: Status | None = None


class SummaryText(Strict):
    """A summary of what was thought."""

    type: Literal["summary_text"]
    text: str


class ReasoningText(Strict):
    """What was thought."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Strict):
    """What the model has thought: its content, or what `encrypted_content` says, or the summary."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Many[SummaryText] | None = None
    content: Many[ReasoningText] | None = None
    encrypted_content: str | None = None
    status: Status | None = None


class ReferenceItem(Strict):
    """An item of a response that was stored, by its id."""

    type: Literal["item_reference"]
    id: str


Item = Annotated[
    MessageItem | CallItem | ResultItem | ReasoningItem | ReferenceItem, Field(discriminator="type")
]


def _as_items(value: Any) -> Any:
    """A text is short for a message of the user; an item that does not say what it is, is a message or, where
    it has an id alone, stands for another."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        return value
    return [_typed(item) if isinstance(item, dict) else item for item in value]


def _typed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "item_reference" if item.keys() == {"id"} else "message", **item}


Items = Annotated[
    Many[Item],
    Field(min_length=1),
    BeforeValidator(_as_items, json_schema_input_type=str | Annotated[list[Item], Field(min_length=1)]),
]


class FunctionTool(Strict):
    """A function the model may call."""

    hints = frozenset({"allowed_callers", "async", "defer_loading", "output_schema"})

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class NamespaceTool(Strict):
    """Functions under a common name."""

    type: Literal["namespace"]
    name: FunctionName
    description: str | None = None
    tools: Annotated[
        list[
            Annotated[
                Annotated[FunctionTool, Tag("function")] | Annotated[Skipped, Tag("other")],
                Discriminator(tool_kind),
            ]
        ],
        Field(max_length=128),
    ]


def _kind(tool: Any) -> str:
    type = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "namespace" if type == "namespace" else tool_kind(tool)


ToolOffer = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[NamespaceTool, Tag("namespace")]
    | Annotated[Skipped, Tag("other")],
    Discriminator(_kind),
]
"""What the model may call. What is no function is not offered to it: web search, shells, …"""


class FunctionChoice(Strict):
    """Which function must be called."""

    type: Literal["function"]
    name: str


class TextSchema(Strict):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    name: Annotated[str, Field(max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextConfig(Strict):
    """What the text of the answer must look like."""

    hints = frozenset({"verbosity"})

    format: Annotated[TextSchema | PlainFormat, Field(discriminator="type")] | None = None


class Reasoning(Strict):
    """`effort`: see `thinking.py`. What was thought is there whole, whatever `summary` says."""

    hints = frozenset({"context", "generate_summary", "mode", "summary"})

    effort: Effort | None = None


class ResponseStreamOptions(Strict):
    """Obfuscation is never added."""

    hints = frozenset({"include_obfuscation"})


Value = Annotated[str, Field(max_length=512)]
Name = Annotated[str, Field(max_length=64)]


class ResponseRequest(Body):
    """`POST /v1/responses`. `truncation` "auto": a conversation that is too long loses what is oldest."""

    hints = Body.hints | {
        "access_programs", "background_options", "context_management", "max_tool_calls", "stream_id",
    }  # fmt: skip
    lacked = (
        SAMPLING
        | lacks("background", "conversation", "prompt", "image", "moderation")
        | lacks("max_tokens", "max_completion_tokens", why="max_output_tokens says it here")
        | lacks("response_format", why="text.format says it here")
        | lacks("messages", why="input says it here")
        | lacks("reasoning_effort", why="reasoning.effort says it here")
        | lacks("stop", "top_k", "logprobs", "functions")
    )

    model: str
    input: Items
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: Limit | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: Many[str] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[ToolOffer], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Annotated[dict[Name, Value], Field(max_length=16)] | None = None
    prompt_cache_key: Value | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    safety_identifier: Value | None = None
    user: str | None = None


class ItemQuery(BaseModel):
    """Which part of the list of items."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


class NoQuery(BaseModel):
    """Nothing may be asked beside the path."""

    model_config = ConfigDict(extra="forbid")
