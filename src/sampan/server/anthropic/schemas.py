"""Anthropic's requests, as far as they are served. A field that is not here is refused by name.

Reference: https://platform.claude.com/docs/en/api/messages. `cache_control` is taken as what it is, a hint:
every prompt is kept and shared for as long as there is room.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from sampan.server.schemas import Body, Count, Many, Stop, Strict


class CacheControl(Strict):
    """A hint that the prompt up to here will come again."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Strict):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: None = None


class ThinkingBlock(Strict):
    """What the assistant thought before. The signature is not looked at."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(Strict):
    """A call that the assistant has made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, JsonValue]
    cache_control: CacheControl | None = None
    caller: None = None
    toolset_name: None = None


def _as_blocks(value: Any) -> Any:
    """A text is short for one block of text."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Texts = Annotated[Many[TextBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[TextBlock])]


class ToolResultBlock(Strict):
    """What a call returned. `is_error`: the model reads "Error: " before it."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]
Blocks = Annotated[Many[Block], BeforeValidator(_as_blocks, json_schema_input_type=str | list[Block])]


class Message(Strict):
    """A turn. Turns of the same role in a row are one."""

    role: Literal["user", "assistant", "system"]
    content: Blocks


class Tool(Strict):
    """A function the model may call."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: str | None = None
    input_schema: dict[str, JsonValue]
    strict: bool | None = None
    cache_control: CacheControl | None = None


class AutoChoice(Strict):
    """The model calls what it likes, or (any) at least one."""

    type: Literal["auto", "any"]
    disable_parallel_tool_use: bool | None = None


class NamedChoice(Strict):
    """The model calls this one."""

    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


class NoChoice(Strict):
    """The model calls none."""

    type: Literal["none"]


ToolChoice = Annotated[AutoChoice | NamedChoice | NoChoice, Field(discriminator="type")]


class ThinkingEnabled(Strict):
    """The model thinks, for at most `budget_tokens`, which `max_tokens` must exceed."""

    type: Literal["enabled"]
    budget_tokens: Count
    display: Literal["summarized"] | None = None


class ThinkingDisabled(Strict):
    """The model answers at once."""

    type: Literal["disabled"]


class ThinkingAdaptive(Strict):
    """The model thinks if it can."""

    type: Literal["adaptive"]
    display: Literal["summarized"] | None = None


Thinking = Annotated[ThinkingEnabled | ThinkingDisabled | ThinkingAdaptive, Field(discriminator="type")]


class JsonFormat(Strict):
    """The answer is JSON that fits this schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]


class OutputConfig(Strict):
    """What the answer must look like."""

    format: JsonFormat | None = None


class Metadata(Strict):
    """`user_id`: whose request it is to the client; taken, and not used."""

    user_id: Annotated[str, Field(max_length=512)] | None = None


class CountRequest(Body):
    """`POST /v1/messages/count_tokens`"""

    model: str
    messages: Annotated[Many[Message], Field(min_length=1, max_length=100_000)]
    system: Texts | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None


class MessagesRequest(CountRequest):
    """`POST /v1/messages`"""

    max_tokens: Count
    stream: bool | None = None
    stop_sequences: Annotated[list[Stop], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31)] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
