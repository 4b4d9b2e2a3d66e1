"""A constraint decides which tokens may come, changes nothing else, and harms nobody but its own request."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sampan.core.types import SamplingParams
from sampan.engine.constraint import allows
from sampan.engine.sequence import Refusal

Make = Callable[..., Any]
VOCAB = 97
GREEDY = SamplingParams(max_tokens=40, temperature=0, logprobs=2)
PROMPTS = [[1, 2, 3], [5] * 40, [9, 8, 7, 9, 8, 7, 9]]
SAMPLINGS = {
    "greedy": GREEDY,
    "warm": SamplingParams(max_tokens=40, temperature=1.0, top_p=0.5, min_p=0.1, seed=6),
    "few": SamplingParams(max_tokens=40, temperature=0.7, top_k=5, seed=5, logprobs=2),
    "all": SamplingParams(max_tokens=40, temperature=1.3, seed=9),
    "penalised": replace(GREEDY, repetition_penalty=1.1, presence_penalty=0.3, logit_bias={4: 2.0, 5: -9.0}),
}


def mask(tokens: Iterable[int]) -> bytes:
    bits = np.zeros(128, np.uint8)
    bits[list(tokens)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


class Steps:
    """After token t, one of t + 1 … t + `width` (modulo `size`) comes; whole after `most` tokens."""

    def __init__(self, start: int = 0, width: int = 12, size: int = 40, most: int = 1000) -> None:
        self.last, self.width, self.size, self.most = start, width, size, most
        self.accepted: list[int] = []
        self.error: str | None = None

    def next(self) -> list[int]:
        return [(self.last + n) % self.size for n in range(1, self.width + 1)]

    def allowed(self) -> bytes | None:
        assert not self.done
        return mask(self.next())

    def accept(self, token: int) -> None:
        assert token in self.next()
        self.last = token
        self.accepted.append(token)

    def forced(self) -> Sequence[int]:
        return ()

    @property
    def done(self) -> bool:
        return len(self.accepted) >= self.most


class Free(Steps):
    """Everything is allowed."""

    def allowed(self) -> bytes | None:
        return None

    def accept(self, token: int) -> None:
        self.accepted.append(token)


class Guessing(Steps):
    """A narrow way, of which it gives away what it is sure of, or is wrong about it."""

    def __init__(self, right: bool) -> None:
        super().__init__(width=1)
        self.right = right

    def forced(self) -> Sequence[int]:
        return [(self.last + n) % self.size if self.right else 90 for n in range(1, 9)]


def ids(events: Iterable[Any]) -> list[int]:
    return [event.token.token for event in events if event.token is not None]


def test_the_mask_is_one_bit_a_token() -> None:
    bits = mask([0, 9, 96])
    assert [token for token in range(200) if allows(bits, token)] == [0, 9, 96]


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_tokens_obey_and_probabilities_are_the_models(make_engine: Make, sampling: SamplingParams) -> None:
    engine = make_engine(draft_rows=0)
    for prompt in PROMPTS:
        rule = Steps()
        events = list(engine.stream(prompt, sampling, constraint=rule))
        assert ids(events) == rule.accepted
        assert len(rule.accepted) == 40
        scores = engine.score(prompt + rule.accepted)[len(prompt) - 1 :]
        assert scores.tolist() == [event.token.logprob for event in events]


def test_what_is_allowed_anyway_changes_nothing(make_engine: Make, tokens_of: Make) -> None:
    for sampling in SAMPLINGS.values():
        engine = make_engine()
        plain = tokens_of(engine.stream(PROMPTS[1], sampling))
        for rule in (Free(), Steps(width=VOCAB, size=VOCAB)):
            assert tokens_of(engine.stream(PROMPTS[1], sampling, constraint=rule)) == plain


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize(
    "way",
    [
        {"draft_rows": 0},
        {"draft_rows": 12},
        {"draft_rows": 12, "max_rows": 16},
        {"pages": 5, "draft_rows": 12},
        {"draft_rows": 0, "forced_rows": 8},
    ],
    ids=["plain", "drafts", "chunks", "preempted", "forced"],
)
def test_company_drafts_chunks_and_preemption_change_no_bit(
    make_engine: Make, finish: Make, tokens_of: Make, sampling: SamplingParams, way: dict[str, int]
) -> None:
    """Constrained and unconstrained requests side by side, against each of them alone."""
    plain = make_engine(draft_rows=0)
    asked = [(prompt, rule) for prompt in PROMPTS for rule in (None, {}, {"width": 2, "size": 7})]
    alone = [
        tokens_of(plain.stream(prompt, sampling, constraint=None if rule is None else Steps(**rule)))
        for prompt, rule in asked
    ]
    engine = make_engine(max_sequences=16, **way)
    rules = [None if rule is None else Steps(**rule) for _, rule in asked]
    requests = [
        engine.add(prompt, sampling, constraint=rule) for (prompt, _), rule in zip(asked, rules, strict=True)
    ]
    events = finish(engine)
    assert [tokens_of(events[request]) for request in requests] == alone
    for request, rule in zip(requests, rules, strict=True):
        assert rule is None or rule.accepted == ids(events[request])
    if "pages" in way:
        assert engine.counters.preempted > 0


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize(
    "rows", [{"draft_rows": 8}, {"draft_rows": 0, "forced_rows": 8}], ids=["drafts", "off"]
)
def test_what_is_forced_is_drafted_and_never_trusted(
    make_engine: Make, tokens_of: Make, rows: dict[str, int], right: bool
) -> None:
    plain = tokens_of(make_engine(draft_rows=0).stream(PROMPTS[0], GREEDY, constraint=Steps(width=1)))
    engine = make_engine(**rows)
    rule = Guessing(right)
    assert tokens_of(engine.stream(PROMPTS[0], GREEDY, constraint=rule)) == plain
    assert rule.accepted == [token.token for token in plain]
    assert engine.counters.drafted > 0
    assert (engine.counters.accepted > 0) == right
    if right:
        assert engine.steps < len(plain) / 2


@pytest.mark.parametrize("draft_rows", [0, 8])
@pytest.mark.parametrize("ignore_eos", [True, False])
def test_a_whole_answer_ends(make_engine: Make, draft_rows: int, ignore_eos: bool) -> None:
    """At its last token, also inside a draft, and though `max_tokens` would end it there too."""
    for most in range(1, 41):
        engine = make_engine(draft_rows=draft_rows, eos=[96])
        rule = Guessing(True)
        rule.most = most
        sampling = replace(GREEDY, ignore_eos=ignore_eos)
        events = list(engine.stream(PROMPTS[0], sampling, constraint=rule))
        assert [event.finish_reason for event in events] == [None] * (most - 1) + ["stop"]
        assert engine.pool.free == engine.pool.count


def test_the_end_is_a_token_like_any_other(make_engine: Make) -> None:
    engine = make_engine(eos=[3])
    events = list(engine.stream(PROMPTS[0], GREEDY, constraint=Steps(width=1)))
    assert (ids(events), events[-1].finish_reason) == ([1, 2, 3], "stop")


class Panic(BaseException):
    """What a library in Rust raises."""


class Failing(Steps):
    """Goes wrong in one way or another after four tokens."""

    def __init__(self, way: str) -> None:
        super().__init__(width=1)
        self.way = way

    @property
    def late(self) -> bool:
        return len(self.accepted) == 4

    def allowed(self) -> bytes | None:
        if self.late and self.way == "nothing":
            return bytes(13)
        if self.late and self.way == "beyond":
            return mask([VOCAB, VOCAB + 1])
        if self.late and self.way == "mask raises":
            raise ZeroDivisionError("by zero")
        if self.late and self.way == "panic":
            raise Panic("at\nthe\n" + "disco" * 1000)
        if self.late and self.way == "error":
            self.error = "too complex"
        return super().allowed()

    def accept(self, token: int) -> None:
        super().accept(token)
        if self.late and self.way == "accept raises":
            raise KeyError(token)

    def forced(self) -> Sequence[int]:
        if self.late and self.way == "forced raises":
            raise OSError("no")
        return ()


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("nothing", "the grammar allows no token here"),
        ("beyond", "the grammar allows no token here"),
        ("error", "too complex"),
        ("mask raises", "the grammar failed: ZeroDivisionError: by zero"),
        ("panic", "the grammar failed: Panic: at the " + "disco" * 14 + "dis"),
        ("accept raises", "the grammar failed: KeyError: 4"),
        ("forced raises", "the grammar failed: OSError: no"),
    ],
)
def test_a_failure_is_one_requests_own(
    make_engine: Make, finish: Make, tokens_of: Make, way: str, message: str
) -> None:
    expected = tokens_of(make_engine().stream(PROMPTS[1], GREEDY))
    engine = make_engine(draft_rows=8)
    healthy = engine.add(PROMPTS[1], GREEDY)
    failing = engine.add(PROMPTS[0], GREEDY, constraint=Failing(way))
    events = finish(engine)
    assert tokens_of(events[healthy]) == expected
    assert ids(events[failing]) == [1, 2, 3, 4]
    assert events[failing][-1].finish_reason == "error"
    assert events[failing][-1].error == f"request {failing}: {message}"
    assert isinstance(events[failing][-1].error, Refusal) == ("failed" not in message)


def test_a_draft_that_must_be_computed_again_is_accepted_once(make_engine: Make, tokens_of: Make) -> None:
    """The draft's token 90 has an embedding that is not a number, and spoils the whole span."""

    def damage(weights: dict[str, np.ndarray]) -> None:
        weights["model.embed_tokens.weight"][90] = np.nan

    plain = tokens_of(make_engine(draft_rows=0).stream(PROMPTS[0], GREEDY, constraint=Steps(width=1)))
    rule = Guessing(False)
    engine = make_engine(damage, draft_rows=8)
    assert tokens_of(engine.stream(PROMPTS[0], GREEDY, constraint=rule)) == plain
    assert engine.counters.drafted == 0
    assert len(rule.accepted) == 40
