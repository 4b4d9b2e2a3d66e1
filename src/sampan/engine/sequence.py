"""One request inside the engine: token ids, pages and how far it got."""

from array import array
from dataclasses import dataclass, field

from sampan.core.types import FinishReason, SamplingParams, TokenLogprob
from sampan.engine.constraint import Guarded
from sampan.engine.lookup import Lookup


@dataclass(eq=False, slots=True)
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
    pages: "array[int]" = field(default_factory=lambda: array("i"))
    computed: int = 0
    published: int = 0
    """Pages from the front that others may share."""
    cached_tokens: int | None = None
    """Prompt tokens that another request had computed; None until it first runs."""
    lookup: Lookup | None = field(default_factory=Lookup)
    """Where its drafts come from; None when it must not draft."""
    constraint: Guarded | None = None
    """What its tokens must obey."""
    plain: bool = False
    """Each of its tokens is the model's most probable one, and nothing else is asked for."""
    adapter: int = 0
    """Id of its adapter; 0 for none."""
    salt: bytes = b""
    """What its pages depend on besides its tokens: only sequences of one salt share pages."""
    _blocks: list[bytes] = field(default_factory=list)

    @property
    def remaining(self) -> int:
        """Tokens that must still go through the model before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def output(self) -> list[int]:
        """Sampled tokens so far."""
        return self.tokens[self.prompt_tokens :]

    def blocks(self, count: int, size: int) -> list[bytes]:
        """Its first pages' tokens, `size` to a page, as keys (kept: bytes remember their hash)."""
        for at in range(len(self._blocks) * size, count * size, size):
            salt = b"" if at else self.salt  # the first page's key is part of every other's
            self._blocks.append(salt + array("i", self.tokens[at : at + size]).tobytes())
        return self._blocks[:count]


@dataclass(slots=True)  # not frozen: these two are made for every token, in a quarter of the time
class Span:
    """Work of one step: `count` rows of a sequence from `start` on; `sample` when they reach its end.

    The last rows are those of `draft`, tokens that are guessed to follow the sequence's own; `forced` where
    the guess is its constraint's.
    """

    sequence: Sequence
    start: int
    count: int
    sample: bool
    draft: tuple[int, ...] = ()
    forced: bool = False

    @property
    def tokens(self) -> list[int]:
        """Of its rows."""
        known = self.sequence.tokens[self.start : self.start + self.count - len(self.draft)]
        return [*known, *self.draft] if self.draft else known

    @property
    def sampled(self) -> int:
        """Its last rows that a token is chosen from: the one before the draft and the draft's own."""
        return 1 + len(self.draft) if self.sample else 0


class Refusal(str):
    """Why an answer ended that could not go on as it was asked for: the request's fault, not the engine's."""

    __slots__ = ()


@dataclass(slots=True)
class Event:
    """One sampled token of a request, or its end. `token` is None only when it ends without one.

    `cached_tokens`: tokens of its prompt that were not computed again. `weights_version`: of the weights that
    gave the token.
    """

    request: int
    token: TokenLogprob | None
    finish_reason: FinishReason | None = None
    error: str | None = None
    cached_tokens: int = field(default=0, compare=False)
    weights_version: int = field(default=0, compare=False)
