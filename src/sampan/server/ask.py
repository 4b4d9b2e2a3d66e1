"""A request for the model as the service sees it, whichever API it came by, and what it gets back."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sampan.core.types import (
    FinishReason,
    Grammar,
    Pooling,
    SamplingParams,
    Scoring,
    TokenLogprob,
    TokenScore,
)

if TYPE_CHECKING:
    Ids = array[int]
else:
    Ids = array
"""Token ids, four bytes each: of requests that wait there may be millions."""


@dataclass(frozen=True)
class Caller:
    """Who asks. `key`: the id of an API key, never the key itself; None where no keys are asked for.

    `priority`: lower goes first. `admin`: may load adapters and weights.
    """

    key: str | None = None
    name: str = "anonymous"
    priority: int = 0
    admin: bool = False


@dataclass(frozen=True)
class Tools:
    """The tools of a request, `offered` in OpenAI's form ({"type": "function", "function": {…}}).

    `choice`: "auto", "none", "required", or the name of the one to call. `parallel`: several calls are fine.
    """

    offered: Sequence[Mapping[str, Any]] = ()
    choice: str = "auto"
    parallel: bool = True

    @property
    def callable(self) -> Sequence[Mapping[str, Any]]:
        """Those that may be called."""
        return () if self.choice == "none" else self.offered


@dataclass(frozen=True)
class Ask:
    """One prompt and how to answer it. `ids`: the prompt. `thinking`: it has opened a block of reasoning.

    `model`: the served model's name or an adapter's. `n`: answers wanted. `tools`: None where the text is not
    to be searched for calls. `raw`: it is taken as it is, tags of reasoning included. `cache_salt`: what it
    must have in common with the requests whose cached prefixes it may use. `constraint`: the request's field
    that the grammar comes from. `scoring`: how the prompt's own tokens are scored; `pooling`: how it becomes
    a vector. `whole`: nothing is shown before the end, so what begins like a call and goes wrong becomes text
    in full. `continues`: the answer goes on with the prompt's text."""

    ids: Ids
    sampling: SamplingParams
    model: str
    n: int = 1
    thinking: bool = False
    grammar: Grammar | None = None
    constraint: str = "tools"
    tools: Tools | None = None
    raw: bool = False
    whole: bool = False
    cache_salt: str | None = None
    scoring: Scoring | None = None
    pooling: Pooling | None = None
    continues: bool = False


@dataclass(frozen=True)
class CallPart:
    """A piece of a tool call: `id` and `name` with its first piece; `arguments` is JSON text to append."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Part:
    """What one step added to answer `index` of an ask: text, reasoning, tool calls, tokens, scores of its
    prompt, what that was pooled to; or its end."""

    index: int
    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPart, ...] = ()
    tokens: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | Literal["tool_calls"] | None = None
    stop_text: str | None = None
    """The stop string that ended it."""
    scores: tuple[TokenScore, ...] = ()
    vector: tuple[float, ...] = ()


@dataclass
class Usage:
    """Tokens of an ask so far. `cached_tokens`: of the prompt, that were not computed again."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
