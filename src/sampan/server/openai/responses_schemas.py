"""Requests of OpenAI's responses, as far as they are served. A field that is not here is refused by name.

Reference: https://platform.openai.com/docs/api-reference/responses.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from sampan.server.openai.schemas import Arguments, PlainFormat, Temperature
from sampan.server.schemas import Body, Count, Many, Strict

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Strict):
    """Text that was given."""

    type: Literal["input_text"]
    text: str


class OutputText(Strict):
    """Text that the model gave before."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[JsonValue], Field(max_length=0)] | None = None
    logprobs: list[JsonValue] | None = None


def _as_parts(value: Any) -> Any:
    """A text is short for one part."""
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


_Part = Annotated[InputText | OutputText, Field(discriminator="type")]
Parts = Annotated[Many[_Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[_Part])]
Results = Annotated[Many[InputText], BeforeValidator(_as_parts, json_schema_input_type=str | list[InputText])]


class MessageItem(Strict):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts
    id: str | None = None
    status: Status | None = None
    phase: None = None


class CallItem(Strict):
    """A call that the model has made; `arguments` is JSON text, or the beginning of some."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: Arguments
    id: str | None = None
    status: Status | None = None


class ResultItem(Strict):
    """What a call returned."""

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
    """What the model has thought: its content or, without one, the summary."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Annotated[Many[SummaryText], Field(default_factory=list)]
    content: Many[ReasoningText] | None = None
    encrypted_content: None = None
    status: Status | None = None


Item = Annotated[MessageItem | CallItem | ResultItem | ReasoningItem, Field(discriminator="type")]


def _as_items(value: Any) -> Any:
    """A text is short for a message of the user; an item that does not say what it is, is a message."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        return value
    return [{"type": "message", **item} if isinstance(item, dict) else item for item in value]


Items = Annotated[
    Many[Item],
    Field(min_length=1),
    BeforeValidator(_as_items, json_schema_input_type=str | Annotated[list[Item], Field(min_length=1)]),
]


class FunctionTool(Strict):
    """A function the model may call."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")]
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


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

    format: Annotated[TextSchema | PlainFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Strict):
    """`effort`: "none" does not think, "minimal" and "low" do for 512 and 2,048 tokens at the most, "medium"
    and "high" for as long as the model likes."""

    effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    summary: None = None


class ResponseStreamOptions(Strict):
    """Obfuscation is never added."""

    include_obfuscation: Literal[False] | None = None


Value = Annotated[str, Field(max_length=512)]
Name = Annotated[str, Field(max_length=64)]


class ResponseRequest(Body):
    """`POST /v1/responses`"""

    model: str
    input: Items
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: Many[Literal["message.output_text.logprobs"]] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    metadata: Annotated[dict[Name, Value], Field(max_length=16)] | None = None
    service_tier: Literal["auto", "default"] | None = None
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
