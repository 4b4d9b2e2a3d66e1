"""OpenAI's requests, as far as they are served. `fields.py` says what becomes of the other fields.

Reference: https://platform.openai.com/docs/api-reference. `top_k`, `min_p`, `repetition_penalty`, `grammar`,
`stop_token_ids`, `prompt_logprobs` and `chat_template_kwargs` are extensions that other servers of open
models have too.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, JsonValue, Tag

from sampan.server.elsewhere import CHAT, CONSTRAINTS, HINTS
from sampan.server.fields import TEXT_ONLY, Skipped, Strict, lacks
from sampan.server.schemas import Body, Count, Many, Stop

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


class RefusalPart(Strict):
    """A part of what the assistant said: that it will not."""

    type: Literal["refusal"]
    refusal: str


ContentPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class FunctionCall(Strict):
    """`arguments`: JSON text, or the beginning of some where an answer was cut; an object is taken, too."""

    name: str
    arguments: Arguments


class ToolCall(Strict):
    """A call that the assistant has made. `index`: as in the pieces of a stream."""

    id: str
    type: Literal["function"] | None = None
    function: FunctionCall
    index: int | None = None


class ChatMessage(Strict):
    """A message, an answer's too. `reasoning_content`, or `reasoning`: what the assistant thought."""

    lacked = lacks("audio", "image", "image_url", "images", "files", "videos", why=TEXT_ONLY) | lacks(
        "function_call", why="tool_calls says it here"
    )

    role: Role
    content: str | Many[ContentPart] | None = None
    name: str | None = None
    tool_calls: Many[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    annotations: list[JsonValue] | None = None


FunctionName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_.-]+$")]


class FunctionDefinition(Strict):
    """A function the model may call; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class ToolDefinition(Strict):
    """A tool of a chat completion."""

    type: Literal["function"]
    function: FunctionDefinition


def tool_kind(tool: Any) -> str:
    """Which of two kinds: a function, or something that this service has none of."""
    type = tool.get("type", "function") if isinstance(tool, dict) else getattr(tool, "type", "function")
    return "function" if type == "function" else "other"


ToolOffer = Annotated[
    Annotated[ToolDefinition, Tag("function")] | Annotated[Skipped, Tag("other")], Discriminator(tool_kind)
]
"""What the model may call; what is no function is not offered to it."""


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


class StructuredOutputs(Strict):
    """vLLM's way to say what the answer must look like; `guided_json` and its like are its older names.

    `json`: a schema, or the text of one. `grammar`: Lark, or what llama.cpp writes (GBNF).
    """

    hints = frozenset(
        {"disable_fallback", "disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"}
    )
    lacked = lacks("structural_tag")

    json_: Annotated[JsonValue, Field(alias="json")] = None
    regex: str | None = None
    choice: Many[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class StreamOptions(Strict):
    """`include_usage`: a last event with the usage. Obfuscation is never added."""

    hints = frozenset({"include_obfuscation"})

    include_usage: bool | None = None


Limit = Literal[-1] | Count
"""Tokens; -1: as many as there is room for."""
TopK = Annotated[int, Field(ge=-1, le=2**31)]
"""0 and -1: off."""
Temperature = Annotated[float, Field(ge=0, le=2)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Sampling(Body):
    """The fields about sampling that chat completions and completions share."""

    hints = Body.hints | HINTS
    lacked = CONSTRAINTS

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Limit | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: TopK | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=1e-3, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=10_000)] | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    grammar: GrammarField | str | None = None
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonValue = None
    guided_regex: str | None = None
    guided_choice: Many[str] | None = None
    guided_grammar: str | None = None


PromptLogprobs = Annotated[int, Field(ge=0, le=20)]
"""An extension: the prompt's own tokens with so many alternatives each."""


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How long the model is to think: see `thinking.py`."""


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`"""

    lacked = CONSTRAINTS | CHAT

    messages: Annotated[Many[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prompt_logprobs: PromptLogprobs | None = None
    response_format: Annotated[SchemaFormat | PlainFormat, Field(discriminator="type")] | None = None
    tools: Annotated[list[ToolOffer], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None
    reasoning_effort: Effort | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None


class CompletionRequest(Sampling):
    """`POST /v1/completions`"""

    lacked = CONSTRAINTS | lacks("suffix")

    prompt: str | Many[str] | Many[int] | Many[Many[int]]
    max_tokens: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prompt_logprobs: PromptLogprobs | None = None


def dumped(model: BaseModel) -> dict[str, Any]:
    """A model as the client wrote it: aliases, and no fields that were not given."""
    return model.model_dump(by_alias=True, exclude_none=True)
