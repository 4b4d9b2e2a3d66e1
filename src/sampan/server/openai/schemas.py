"""OpenAI's requests, as far as they are served. A field that is not here is refused by name.

Reference: https://platform.openai.com/docs/api-reference. `top_k`, `min_p`, `repetition_penalty`, `grammar`,
`prompt_logprobs` and `chat_template_kwargs` are extensions that other servers of open models have too.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, JsonValue

from sampan.server.schemas import Body, Count, Many, Stop, Strict

Role = Literal["system", "developer", "user", "assistant", "tool"]


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


def _as_text(value: Any) -> Any:
    """Nothing, or an object, as the text that stands for it."""
    return json.dumps(value or {}, ensure_ascii=False) if value is None or isinstance(value, dict) else value


Arguments = Annotated[
    str,
    Field(default="{}"),
    BeforeValidator(_as_text, json_schema_input_type=str | dict[str, JsonValue] | None),
]


class FunctionCall(Strict):
    """`arguments`: JSON text, or the beginning of some where an answer was cut; an object is taken, too."""

    name: str
    arguments: Arguments


class ToolCall(Strict):
    """A call that the assistant has made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Strict):
    """A message. `reasoning_content`, or `reasoning`: what the assistant thought."""

    role: Role
    content: str | Many[TextPart] | None = None
    name: str | None = None
    tool_calls: Many[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: None = None


class FunctionDefinition(Strict):
    """A function the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")]
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class ToolDefinition(Strict):
    """A tool of a chat completion."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Strict):
    """A function by name."""

    name: str


class NamedTool(Strict):
    """Which tool must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Strict):
    """The schema of a strict answer."""

    name: Annotated[str, Field(max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: str | None = None
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]
    strict: bool | None = None


class SchemaFormat(Strict):
    """`{"type": "json_schema", "json_schema": …}`"""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class PlainFormat(Strict):
    """`{"type": "text"}` or `{"type": "json_object"}`"""

    type: Literal["text", "json_object"]


class GrammarField(Strict):
    """An extension: another kind of grammar; a list of texts for "choice"."""

    type: Literal["regex", "lark", "choice"]
    value: str | Many[str]


class StreamOptions(Strict):
    """`include_usage`: a last event with the usage. Obfuscation is never added."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


Temperature = Annotated[float, Field(ge=0, le=2)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Sampling(Body):
    """The fields about sampling that chat completions and completions share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=1e-3, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=10_000)] | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    grammar: GrammarField | None = None
    ignore_eos: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    user: str | None = None


PromptLogprobs = Annotated[int, Field(ge=0, le=20)]
"""An extension: the prompt's own tokens with so many alternatives each."""


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`"""

    messages: Annotated[Many[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prompt_logprobs: PromptLogprobs | None = None
    response_format: Annotated[SchemaFormat | PlainFormat, Field(discriminator="type")] | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None


class CompletionRequest(Sampling):
    """`POST /v1/completions`"""

    prompt: str | Many[str] | Many[int] | Many[Many[int]]
    max_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prompt_logprobs: PromptLogprobs | None = None


def dumped(model: BaseModel) -> dict[str, Any]:
    """A model as the client wrote it: aliases, and no fields that were not given."""
    return model.model_dump(by_alias=True, exclude_none=True)
