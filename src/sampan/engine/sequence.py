"""One request inside the engine: token ids, pages and how far it got."""

from dataclasses import dataclass, field

from sampan.core.types import FinishReason, SamplingParams, TokenLogprob


@dataclass(eq=False)
class Sequence:
    """`tokens` is the prompt and then what was sampled; the first `computed` of them are in the cache."""

    id: int
    tokens: list[int]
    prompt_tokens: int
    sampling: SamplingParams
    seed: int
    limit: int
    """Length at which it must end: the context, or prompt plus `max_tokens`."""
    stop_ids: frozenset[int]
    pages: list[int] = field(default_factory=list)
    computed: int = 0

    @property
    def remaining(self) -> int:
        """Tokens that must still go through the model before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def output(self) -> list[int]:
        """Sampled tokens so far."""
        return self.tokens[self.prompt_tokens :]


@dataclass(frozen=True)
class Span:
    """Work of one step: `count` tokens of a sequence from `start` on; `sample` when they reach its end."""

    sequence: Sequence
    start: int
    count: int
    sample: bool


@dataclass(frozen=True)
class Event:
    """One sampled token of a request, or its end. `token` is None only when it ends without one."""

    request: int
    token: TokenLogprob | None
    finish_reason: FinishReason | None = None
    error: str | None = None
