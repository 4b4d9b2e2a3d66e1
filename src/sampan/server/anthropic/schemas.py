"""Anthropic's requests, as far as they are served. `fields.py` says what becomes of the other fields.

Reference: https://platform.claude.com/docs/en/api/messages. `cache_control` is taken as what it is, a hint:
every prompt is kept and shared for as long as there is room.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, JsonValue, Tag

from sampan.server.elsewhere import SAMPLING
from sampan.server.fields import TEXT_ONLY, Skipped, Strict, lacks
from sampan.server.schemas import Body, Count, Many, Stop
from sampan.text.tools import read_arguments


class CacheControl(Strict):
    """A hint that the prompt up to here will come again."""

    hints = frozenset({"scope"})

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Strict):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: list[JsonValue] | None = None


class ThinkingBlock(Strict):
    """What the assistant thought before. The signature is not looked at."""

    hints = frozenset({"binding"})

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedBlock(Skipped):
    """What the assistant thought before, in a form that only another service can read."""

    type: Literal["redacted_thinking"]


def _as_input(value: Any) -> Any:
    """Nothing, or a text as other APIs have it, as the object that it stands for."""
    return read_arguments(value) if value is None or isinstance(value, str) else value


Arguments = Annotated[
    dict[str, JsonValue],
    Field(default_factory=dict),
    BeforeValidator(_as_input, json_schema_input_type=dict[str, JsonValue] | str | None),
]


class ToolUseBlock(Strict):
    """A call that the assistant has made, by the client's tools (`caller`). `input`: its arguments."""

    hints = frozenset({"toolset_name"})

    type: Literal["tool_use"]
    id: str
    name: str
    input: Arguments
    cache_control: CacheControl | None = None
    caller: JsonValue = None


def _as_blocks(value: Any) -> Any:
    """A text is short for one block of text."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Texts = Annotated[Many[TextBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[TextBlock])]


class ToolResultBlock(Strict):
    """What a call returned. `is_error`: the model reads "Error: " before it."""

    hints = frozenset({"toolset_name"})

    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Block = Annotated[
    TextBlock | ThinkingBlock | RedactedBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")
]
Blocks = Annotated[Many[Block], BeforeValidator(_as_blocks, json_schema_input_type=str | list[Block])]


class Message(Strict):
    """A turn. Turns of the same role in a row are one."""

    lacked = lacks("image", "images", "audio", "files", why=TEXT_ONLY)

    role: Literal["user", "assistant", "system"]
    content: Blocks


class Tool(Strict):
    """A function the model may call."""

    hints = frozenset({"allowed_callers", "defer_loading", "eager_input_streaming", "input_examples"})

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: str | None = None
    input_schema: dict[str, JsonValue]
    strict: bool | None = None
    cache_control: CacheControl | None = None


def _kind(tool: Any) -> str:
    """Which of two kinds: a function of the client's, or one that Anthropic has made."""
    type = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "custom" if type in (None, "custom") else "other"


ToolOffer = Annotated[Annotated[Tool, Tag("custom")] | Annotated[Skipped, Tag("other")], Discriminator(_kind)]
"""What the model may call; tools that Anthropic runs, or has taught its models, are not offered to it."""


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

    hints = frozenset({"display"})

    type: Literal["enabled"]
    budget_tokens: Count


class ThinkingDisabled(Strict):
    """The model answers at once."""

    type: Literal["disabled"]


class ThinkingAdaptive(Strict):
    """The model thinks if it can."""

    hints = frozenset({"display"})

    type: Literal["adaptive", "between_tools"]


Thinking = Annotated[ThinkingEnabled | ThinkingDisabled | ThinkingAdaptive, Field(discriminator="type")]


class JsonFormat(Strict):
    """The answer is JSON that fits this schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]


class OutputConfig(Strict):
    """What the answer must look like. `effort`: see `thinking.py`."""

    hints = frozenset({"task_budget"})

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class NewThread(Strict):
    """The conversation is to be kept: it is not, and whoever goes on with it is told so."""

    type: Literal["create"]


class GoneThread(Strict):
    """Goes on with a conversation that was to be kept."""

    type: Literal["continue"]
    previous_message_id: str


Thread = Annotated[NewThread | GoneThread, Field(discriminator="type")]


class CountRequest(Body):
    """`POST /v1/messages/count_tokens`"""

    hints = Body.hints | {
        "betas", "billing_policy", "context_management", "diagnostics", "fallback_credit_token", "fallbacks",
        "speed", "user_profile_id", "workspace_id",
    }  # fmt: skip
    lacked = (
        SAMPLING
        | lacks("container", "mcp_servers", "inference_geo", "prefill", "compaction")
        | lacks("output_format", why="output_config.format says it here")
        | lacks("max_completion_tokens", why="max_tokens says it here")
        | lacks("stop", why="stop_sequences says it here")
        | lacks("response_format", why="output_config.format says it here")
        | lacks("reasoning_effort", why="output_config.effort says it here")
        | lacks("logprobs", "top_logprobs", "functions")
    )

    model: str
    messages: Annotated[Many[Message], Field(min_length=1, max_length=100_000)]
    system: Texts | None = None
    tools: Annotated[list[ToolOffer], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    thread: Thread | None = None

    @property
    def functions(self) -> list[Tool]:
        """The tools that are offered."""
        return [tool for tool in self.tools or () if isinstance(tool, Tool)]


class MessagesRequest(CountRequest):
    """`POST /v1/messages`"""

    max_tokens: Count
    stream: bool | None = None
    stop_sequences: Annotated[list[Stop], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None
