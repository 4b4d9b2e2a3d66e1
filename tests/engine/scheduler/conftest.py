"""A scheduler under traffic, before a model that sees only what lies in its sequences' pages."""

from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from zlib import crc32

import pytest

from sampan.core.types import SamplingParams, TokenLogprob
from sampan.engine.blocks import BlockPool
from sampan.engine.scheduler import Scheduler
from sampan.engine.sequence import Event, Sequence, Span

Check = Callable[..., None]
STOP = 0


def next_token(text: Seq[int], memory: int) -> int:
    """A model: the next token, out of 40, depends on the last `memory` ones."""
    return crc32(bytes(text[-memory:])) % 40


@dataclass(frozen=True)
class Request:
    arrival: int
    prompt: tuple[int, ...]
    answer: int
    abort: int | None = None

    @property
    def limit(self) -> int:
        return len(self.prompt) + self.answer


@dataclass(frozen=True)
class Traffic:
    """Sizes, requests in the order of their arrival, and how far back the model looks; slots for states, 0
    where sequences carry none."""

    pages: int
    size: int
    max_rows: int
    max_sequences: int
    requests: tuple[Request, ...]
    draft_rows: int
    reuse: bool
    memory: int
    states: int = 0


class Simulation:
    """Traffic through a scheduler, every step checked. A slot of the cache holds the text up to its token, a
    state all the text before it."""

    def __init__(self, check_pool: Check, traffic: Traffic) -> None:
        self.check_pool = check_pool
        self.traffic = traffic
        self.pool = BlockPool(traffic.pages, traffic.size, reuse=traffic.reuse)
        sizes = traffic.max_rows, traffic.max_sequences, traffic.draft_rows
        self.scheduler = Scheduler(self.pool, *sizes, states=traffic.states)
        self.carried: list[tuple[int, ...]] = [()] * traffic.states
        self.memory: list[list[tuple[int, ...]]] = [[()] * traffic.size for _ in range(traffic.pages)]
        self.sequences: list[Sequence] = []
        self.events: list[list[Event]] = []
        self.first_steps: dict[int, int] = {}
        self.aborted: set[int] = set()
        self.steps = self.rows = 0

    def run(self) -> "Simulation":
        for step in range(self.patience()):
            self.arrive(step)
            self.leave(step)
            self.step(step)
            if self.scheduler.idle and len(self.sequences) == len(self.traffic.requests):
                break
        return self

    def finish(self) -> "Simulation":
        """Steps until nothing is left to do."""
        for _ in range(1000):
            if self.scheduler.idle:
                break
            self.step()
        assert self.pool.free == self.pool.count
        assert self.scheduler.states.free == self.traffic.states
        return self

    def expected(self, number: int) -> list[int]:
        """What a request of the traffic gives alone."""
        request = self.traffic.requests[number]
        tokens = list(request.prompt)
        while True:
            tokens.append(next_token(tokens, self.traffic.memory))
            if tokens[-1] == STOP or len(tokens) >= request.limit:
                return tokens[len(request.prompt) :]

    def step(self, step: int = 0) -> list[Event]:
        decoding = [s for s in self.scheduler.running if s.remaining == 1]
        plan = self.scheduler.schedule()
        self.check(plan, decoding)
        for before, after in self.scheduler.copies:
            self.memory[after] = [*self.memory[before]]
        self.scheduler.copies.clear()
        for span in plan:
            self.first_steps.setdefault(span.sequence.id, step)
        events = self.scheduler.postprocess(plan, self.compute(plan))
        for event in events:
            self.events[event.request].append(event)
        self.check_pool(self.pool, [sequence.pages for sequence in self.sequences])
        self.steps += 1
        self.rows += sum(span.count for span in plan)
        return events

    def patience(self) -> int:
        """Steps in which everyone is served even if, one after another, each token starts from nothing."""
        last = max((r.arrival for r in self.traffic.requests), default=0)
        rows = min(self.traffic.max_rows, self.traffic.size) if self.traffic.states else self.traffic.max_rows
        work = [r.answer * (-(-r.limit // rows) + bool(self.traffic.states)) for r in self.traffic.requests]
        return last + sum(work) + 1

    def add(self, prompt: Seq[int], limit: int, stops: Iterable[int] = ()) -> Sequence:
        number = len(self.sequences)
        sequence = Sequence(number, list(prompt), len(prompt), SamplingParams(), 0, limit, frozenset(stops))
        self.sequences.append(sequence)
        self.events.append([])
        self.scheduler.add(sequence)
        return sequence

    def arrive(self, step: int) -> None:
        for request in self.traffic.requests:
            if request.arrival == step:
                self.add(request.prompt, request.limit, {STOP})

    def leave(self, step: int) -> None:
        for sequence in self.sequences:
            if self.traffic.requests[sequence.id].abort == step:
                events = self.events[sequence.id]
                finished = bool(events) and events[-1].finish_reason is not None
                assert self.scheduler.abort(sequence.id) != finished
                assert finished or not sequence.pages
                if not finished:
                    self.aborted.add(sequence.id)

    def check(self, plan: list[Span], decoding: list[Sequence]) -> None:
        assert plan or self.scheduler.idle
        rows = sum(span.count for span in plan)
        assert rows <= self.traffic.max_rows
        assert len(self.scheduler.running) <= self.traffic.max_sequences
        planned = [span.sequence for span in plan]
        assert len(set(map(id, planned))) == len(planned)
        assert all(sequence in self.scheduler.running for sequence in planned)
        for span in plan:
            self.check_span(span)
        if any(span.draft for span in plan):
            assert rows <= self.traffic.draft_rows
            assert self.traffic.states or all(span.count == 1 + len(span.draft) for span in plan)
        self.check_pool(self.pool, [sequence.pages for sequence in self.sequences])
        self.check_states()
        assert not any(sequence.pages for sequence in self.scheduler.waiting)
        if len(decoding) <= self.traffic.max_rows:
            still = [sequence for sequence in decoding if sequence in self.scheduler.running]
            assert all(sequence in planned for sequence in still)

    def check_span(self, span: Span) -> None:
        """It goes on where its sequence is, and nobody else holds or finds the pages that it writes."""
        sequence, size = span.sequence, self.traffic.size
        text = len(sequence.tokens) + len(span.draft)
        assert span.start == sequence.computed < len(sequence.tokens)
        assert 1 <= span.count <= text - span.start
        assert span.sample == (span.start + span.count == text)
        assert span.sample or not span.draft
        assert text <= sequence.limit
        assert len(sequence.pages) * size >= span.start + span.count
        holders = Counter(page for sequence in self.sequences for page in sequence.pages)
        for page in sequence.pages[span.start // size : -(-(span.start + span.count) // size)]:
            assert holders[page] == 1
            assert page not in self.pool._keys
            if page in self.pool._tail_keys:  # whose tokens stay
                assert span.start >= sequence.prompt_tokens - 1
                assert page == sequence.pages[(sequence.prompt_tokens - 1) // size]

    def check_states(self) -> None:
        """Every slot is empty, a snapshot or held; held as often as it has holders; found by one page."""
        states = self.scheduler.states
        both = [{each.state.reads, each.state.writes} - {-1} for each in self.sequences]
        held = Counter(slot for slots in both for slot in slots)
        assert states._holders == [held[slot] for slot in range(states.count)]
        assert {slot: serial for serial, slot in states._found.items()} == states._serials
        assert sorted([*states._empty, *({*held} | {*states._serials})]) == list(range(states.count))
        if states.count:
            running = [sequence in self.scheduler.running for sequence in self.sequences]
            assert [bool(slots) for slots in both] == running

    def carry(self, span: Span, text: tuple[int, ...]) -> None:
        """The state that a span reads is of the text before it; what it writes nobody else has, nor finds."""
        reads, writes = span.sequence.state.reads, span.sequence.state.writes
        assert (() if reads < 0 else self.carried[reads]) == text[: span.start]
        assert self.scheduler.states._holders[writes] == 1
        assert writes not in self.scheduler.states._serials
        self.carried[writes] = text[: span.start + span.count]

    def compute(self, plan: list[Span]) -> list[list[TokenLogprob]]:
        texts = [(*span.sequence.tokens, *span.draft) for span in plan]
        if self.traffic.states:
            for span, text in zip(plan, texts, strict=True):
                self.carry(span, text)
        for span, text in zip(plan, texts, strict=True):
            for at in range(span.start, span.start + span.count):
                page = span.sequence.pages[at // self.traffic.size]
                self.memory[page][at % self.traffic.size] = text[: at + 1]
        return [self.sample(span, text) for span, text in zip(plan, texts, strict=True) if span.sample]

    def sample(self, span: Span, text: tuple[int, ...]) -> list[TokenLogprob]:
        """Tokens of the span's last rows, while they are the draft's; each row sees the text before it."""
        chosen: list[TokenLogprob] = []
        for at in range(span.start + span.count - span.sampled, span.start + span.count):
            seen = [
                self.memory[span.sequence.pages[n // self.traffic.size]][n % self.traffic.size]
                for n in range(at + 1)
            ]
            assert seen == [text[: n + 1] for n in range(at + 1)]
            chosen.append(TokenLogprob(next_token(seen[-1], self.traffic.memory), 0.0))
            if at + 1 < len(text) and chosen[-1].token != text[at + 1]:
                break
        return chosen


@pytest.fixture(scope="session")
def simulation(check_pool: Check) -> Callable[..., Simulation]:
    """A simulation of these sizes; `requests`: their arrival, prompt, longest answer and step of abortion."""

    def make(
        pages: int,
        size: int,
        max_rows: int,
        max_sequences: int,
        requests: Iterable[tuple[int, tuple[int, ...], int, int | None]] = (),
        draft_rows: int = 0,
        reuse: bool = True,
        memory: int = 99,
        states: int = 0,
    ) -> Simulation:
        those = tuple(Request(*request) for request in requests)
        sizes = pages, size, max_rows, max_sequences
        return Simulation(check_pool, Traffic(*sizes, those, draft_rows, reuse, memory, states))

    return make
