"""One request inside the engine: token ids, pages and how far it got."""

from array import array
from dataclasses import dataclass, field
from typing import Any, Protocol

from sampan.core.types import FinishReason, Pooling, SamplingParams, Scoring, TokenLogprob, TokenScore
from sampan.engine.constraint import Guarded
from sampan.engine.lookup import Lookup


class Pooled(Protocol):
    """The vector that a prompt becomes, while it does (`pooling.py`; here are no numerics)."""

    @property
    def how(self) -> Pooling:
        """Which rows it is made of."""

    def first(self, end: int) -> int:
        """The first row that is still needed of those before `end`."""

    def take(self, rows: Any) -> None:
        """The next rows [n, width]; of "last", the last alone."""

    def of_page(self, index: int) -> object:
        """What is kept with a full page; None for nothing."""

    def recall(self, noted: list[object]) -> int:
        """Take what was kept with a prompt's first pages; returns how many of them it can hold."""

    def vector(self) -> tuple[float, ...]:
        """Of the whole prompt, [width]."""


ANYWHERE = 2**62
"""Where a span must end that may end anywhere."""


@dataclass(eq=False, slots=True)
class Carried:
    """Where a sequence's state lies (`states.py`), in tokens and slots, -1 for none. `reads`: behind its
    `computed` tokens; `writes`: what its next rows leave. `ends`: where its next span must end, and else with
    a page of `size`. `branch`: where the known pages end that it begins like. `kept`: the longest of its
    snapshots that stays; `rolling`: the page before the one that does not."""

    reads: int = -1
    writes: int = -1
    ends: int = ANYWHERE
    size: int = 1
    branch: int = 0
    kept: int = 0
    rolling: int = -1


@dataclass(eq=False, slots=True)
class Sequence:
    """`tokens` is the prompt and then what was sampled; the first `computed` of them are in the cache."""

    id: int
    tokens: list[int]
    prompt_tokens: int
    sampling: SamplingParams
    seed: int
    limit: int
    """Length at which it must end: `SamplingParams.limit`."""
    stop_ids: frozenset[int]
    pages: "array[int]" = field(default_factory=lambda: array("i"))
    computed: int = 0
    published: int = 0
    """Pages from the front that others may share."""
    cached_tokens: int | None = None
    """Prompt tokens that another request had computed; None until it first runs."""
    lookup: Lookup | None = field(default_factory=Lookup)
    """Where its drafts come from that repeat the text; None when it must not draft."""
    drafts: bool = True
    """Whether it may draft at all."""
    progress: Any = None
    """How far the model that drafts for it is (`drafter.py`)."""
    constraint: Guarded | None = None
    """What its tokens must obey."""
    plain: bool = False
    """Each of its tokens is the model's most probable one, and nothing else is asked for."""
    adapter: int = 0
    """Id of its adapter; 0 for none."""
    salt: bytes = b""
    """What its pages depend on besides its tokens: only sequences of one salt share pages."""
    scoring: Scoring | None = None
    """How its prompt is scored."""
    generates: bool = True
    """Whether tokens are sampled behind the prompt."""
    scored: list[TokenScore] = field(default_factory=list)
    """Of the prompt's tokens from the first that is scored on."""
    told: int = 0
    """How many of them were told."""
    pooled: Pooled | None = None
    """The vector that its prompt becomes."""
    state: Carried = field(default_factory=Carried)
    """What it carries besides its pages, where the model has such."""
    _blocks: list[bytes] = field(default_factory=list)

    @property
    def remaining(self) -> int:
        """Tokens that must still go through the model before the next one can be sampled, all are pooled, or
        the last one is scored: then it need not go itself."""
        whole = self.generates or self.pooled is not None
        rows = len(self.tokens) if whole else max(1, len(self.tokens) - 1)
        return rows - self.computed

    def next_rows(self, most: int) -> int:
        """How many of its next rows a span takes, of so many at most."""
        done, size = self.computed, self.state.size
        count = min(most, self.remaining, self.state.ends - done)
        whole = (done + count) // size * size - done
        return whole if whole > 0 and count < self.remaining else count

    @property
    def next_scored(self) -> int:
        """The token to score next, by the row before it; beyond all tokens where none is left."""
        if self.scoring is not None:
            place = max(1, self.scoring.start) + len(self.scored)
            if place < self.prompt_tokens:
                return place
        return len(self.tokens) + 1

    def scores_of(self, start: int, stop: int) -> list[TokenScore] | None:
        """Of the tokens [start, stop), where all of them are known; the very first token has none."""
        if self.scoring is None:
            return None
        first = max(1, self.scoring.start)
        if max(start, 1) < first or stop > first + len(self.scored):
            return None
        return self.scored[max(start, 1) - first : stop - first]

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

    def tail(self, size: int) -> tuple[int, bytes]:
        """The prompt's last page that another such prompt could take a part of, and that part's key: its
        tokens but the prompt's last, which is computed to sample from. Empty where there are none."""
        index = (self.prompt_tokens - 1) // size
        tokens = self.tokens[index * size : self.prompt_tokens - 1]
        return index, (b"" if index else self.salt) + array("i", tokens).tobytes() if tokens else b""


@dataclass(slots=True)  # not frozen: these two are made for every token, in a quarter of the time
class Span:
    """Work of one step: `count` rows of a sequence from `start` on; `sample` when they reach its end.

    The last rows are those of `draft`, tokens that are guessed to follow the sequence's own, by `source`:
    "grammar", "lookup" or a model's name. `scored`: the last rows but those that a token is chosen from, each
    of which scores the token behind it. `pooled`: the last rows, whose hidden states are wanted alone."""

    sequence: Sequence
    start: int
    count: int
    sample: bool
    draft: tuple[int, ...] = ()
    source: str = ""
    scored: int = 0
    pooled: int = 0

    @property
    def answers(self) -> bool:
        """Whether it is the next row of an answer, behind those alone that a draft's miss left to compute."""
        redone = self.sequence.state.writes >= 0 and self.start >= self.sequence.prompt_tokens - 1
        return self.sample and (self.count == 1 or redone)

    @property
    def tokens(self) -> list[int]:
        """Of its rows."""
        known = self.sequence.tokens[self.start : self.start + self.count - len(self.draft)]
        return [*known, *self.draft] if self.draft else known

    @property
    def targets(self) -> list[int]:
        """The tokens behind its scored rows."""
        last = self.start + self.count - (1 if self.sample else 0)
        return self.sequence.tokens[last - self.scored + 1 : last + 1]

    @property
    def sampled(self) -> int:
        """Its last rows that something is read of: those that are pooled; or scored ones, the one before the
        draft, the draft's own."""
        return self.pooled + self.scored + (1 + len(self.draft) if self.sample else 0)


class Refusal(str):
    """Why an answer ended that could not go on as it was asked for: the request's fault, not the engine's."""

    __slots__ = ()


@dataclass(slots=True)
class Event:
    """One sampled token of a request, scores of its prompt's tokens, or its end. `token` is None when it ends
    without one, and beside scores. `vector`: what its prompt was pooled to, with the end.

    `cached_tokens`: tokens of its prompt that were not computed again. `weights_version`: of the weights that
    gave the token, `adapter`: the id of the adapter that did, 0 for none.
    """

    request: int
    token: TokenLogprob | None
    finish_reason: FinishReason | None = None
    error: str | None = None
    cached_tokens: int = field(default=0, compare=False)
    weights_version: int = field(default=0, compare=False)
    scores: tuple[TokenScore, ...] = ()
    vector: tuple[float, ...] = ()
    adapter: int = field(default=0, compare=False)
