"""The scheduler under random traffic, before a model that sees only what lies in its sequence's pages."""

from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sampan.core.types import SamplingParams, TokenLogprob
from sampan.engine.blocks import BlockPool
from sampan.engine.scheduler import Scheduler
from sampan.engine.sequence import Event, Sequence, Span

STOP = 0


def next_token(tokens: list[int]) -> int:
    """A model: the next token, out of 40, depends on every token before it."""
    return crc32(bytes(tokens)) % 40


def alone(prompt: list[int], limit: int) -> list[int]:
    tokens = list(prompt)
    while True:
        tokens.append(next_token(tokens))
        if tokens[-1] == STOP or len(tokens) >= limit:
            return tokens[len(prompt) :]


@dataclass(frozen=True)
class Request:
    arrival: int
    prompt: int
    answer: int
    abort: int | None = None


@dataclass(frozen=True)
class Traffic:
    """Requests, and the sizes they meet; each fits the pool alone."""

    pages: int
    size: int
    max_rows: int
    max_sequences: int
    requests: tuple[Request, ...]


@st.composite
def traffic(draw: st.DrawFn, aborts: bool = True) -> Traffic:
    pages, size = draw(st.integers(1, 10)), draw(st.integers(1, 6))
    capacity = pages * size
    requests = []
    for _ in range(draw(st.integers(1, 8)) if capacity > 1 else 0):
        prompt = draw(st.integers(1, capacity // 2) | st.integers(1, capacity - 1))
        answer = capacity - prompt - draw(st.integers(0, capacity - prompt - 1))
        abort = draw(st.none() | st.integers(0, 40)) if aborts else None
        requests.append(Request(draw(st.integers(0, 9)), prompt, answer, abort))
    rows, sequences = draw(st.integers(1, 20)), draw(st.integers(1, 6))
    return Traffic(pages, size, rows, sequences, tuple(sorted(requests, key=lambda r: r.arrival)))


class Simulation:
    """Traffic through a scheduler, every step checked."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.pool = BlockPool(traffic.pages, traffic.size)
        self.scheduler = Scheduler(self.pool, traffic.max_rows, traffic.max_sequences)
        self.memory = [[-1] * traffic.size for _ in range(traffic.pages)]
        self.sequences: list[Sequence] = []
        self.events: list[list[Event]] = []
        self.first_steps: dict[int, int] = {}
        self.aborted: set[int] = set()

    def run(self) -> "Simulation":
        for step in range(self.patience()):
            self.arrive(step)
            self.leave(step)
            decoding = [s for s in self.scheduler.running if s.remaining == 1]
            plan = self.scheduler.schedule()
            self.check(plan, decoding)
            for span in plan:
                self.first_steps.setdefault(span.sequence.id, step)
            for event in self.scheduler.postprocess(plan, self.compute(plan)):
                self.events[event.request].append(event)
            if self.scheduler.idle and len(self.sequences) == len(self.traffic.requests):
                break
        return self

    def patience(self) -> int:
        """Steps in which everyone is served even if, one after another, each token starts from nothing."""
        last = max((r.arrival for r in self.traffic.requests), default=0)
        work = [
            r.answer * (-(-(r.prompt + r.answer) // self.traffic.max_rows)) for r in self.traffic.requests
        ]
        return last + sum(work) + 1

    def arrive(self, step: int) -> None:
        for number, request in enumerate(self.traffic.requests):
            if request.arrival == step:
                prompt = [1 + (number * 7 + i) % 39 for i in range(request.prompt)]
                limit = request.prompt + request.answer
                stops = frozenset({STOP})
                self.sequences.append(
                    Sequence(number, prompt, request.prompt, SamplingParams(), 0, limit, stops)
                )
                self.events.append([])
                self.scheduler.add(self.sequences[-1])

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
        assert sum(span.count for span in plan) <= self.traffic.max_rows
        assert len(self.scheduler.running) <= self.traffic.max_sequences
        planned = [span.sequence for span in plan]
        assert len(set(map(id, planned))) == len(planned)
        assert all(sequence in self.scheduler.running for sequence in planned)
        for span in plan:
            assert span.start == span.sequence.computed
            assert 1 <= span.count <= span.sequence.remaining
            assert span.sample == (span.count == span.sequence.remaining)
            assert len(span.sequence.pages) * self.traffic.size >= span.start + span.count
        held = [page for sequence in self.sequences for page in sequence.pages]
        assert len(held) == len(set(held)) == self.traffic.pages - self.pool.free
        assert not any(sequence.pages for sequence in self.scheduler.waiting)
        if len(decoding) <= self.traffic.max_rows:
            still = [sequence for sequence in decoding if sequence in self.scheduler.running]
            assert all(sequence in planned for sequence in still)

    def compute(self, plan: list[Span]) -> list[TokenLogprob]:
        size = self.traffic.size
        for span in plan:
            for at in range(span.start, span.start + span.count):
                self.memory[span.sequence.pages[at // size]][at % size] = span.sequence.tokens[at]
        sampled = []
        for span in plan:
            if span.sample:
                pages = span.sequence.pages
                seen = [self.memory[pages[at // size]][at % size] for at in range(span.start + span.count)]
                sampled.append(TokenLogprob(next_token(seen), 0.0))
        return sampled


@settings(max_examples=300, deadline=None)
@given(traffic())
@example(Traffic(3, 4, 2, 4, (Request(0, 5, 7), Request(0, 3, 9), Request(1, 8, 4), Request(2, 1, 11))))
def test_everyone_is_served_what_they_would_get_alone(traffic: Traffic) -> None:
    simulation = Simulation(traffic).run()
    assert simulation.scheduler.idle
    assert simulation.pool.free == traffic.pages
    for number, request in enumerate(traffic.requests):
        prompt = simulation.sequences[number].tokens[: request.prompt]
        expected = alone(prompt, request.prompt + request.answer)
        events = simulation.events[number]
        tokens = [event.token.token for event in events if event.token is not None]
        if number in simulation.aborted:
            assert tokens == expected[: len(tokens)]
            assert all(event.finish_reason is None for event in events)
            continue
        assert tokens == expected
        reasons = [event.finish_reason for event in events]
        assert reasons == [None] * (len(tokens) - 1) + ["stop" if tokens[-1] == STOP else "length"]


@settings(max_examples=100, deadline=None)
@given(traffic(aborts=False))
def test_first_come_first_served(traffic: Traffic) -> None:
    starts = Simulation(traffic).run().first_steps
    assert all(starts[a] <= starts[b] for a, b in pairwise(range(len(traffic.requests))))


def test_a_large_request_is_not_starved_by_a_stream_of_small_ones() -> None:
    large = Request(arrival=3, prompt=28, answer=4)
    small = [Request(arrival=n, prompt=2, answer=6) for n in range(40)]
    requests = tuple(sorted([large, *small], key=lambda r: r.arrival))
    simulation = Simulation(Traffic(8, 4, 8, 8, requests)).run()
    number = requests.index(large)
    assert simulation.events[number][-1].finish_reason is not None
    assert simulation.first_steps[number] < 15


def test_a_long_prompt_does_not_stall_those_who_decode() -> None:
    simulation = Simulation(Traffic(64, 4, 8, 8, ()))
    decoding = [Sequence(n, [n + 1], 1, SamplingParams(), 0, 60, frozenset()) for n in range(3)]
    for sequence in decoding:
        simulation.scheduler.add(sequence)
    simulation.scheduler.postprocess(*both(simulation))
    simulation.scheduler.add(Sequence(3, [9] * 100, 100, SamplingParams(), 0, 101, frozenset()))
    for _ in range(20):
        events = simulation.scheduler.postprocess(*both(simulation))
        assert {0, 1, 2} <= {event.request for event in events}
    assert event_of(events, 3) is not None


def test_the_youngest_gives_way_and_comes_back_before_those_who_came_later() -> None:
    simulation = Simulation(Traffic(6, 4, 8, 8, ()))
    scheduler = simulation.scheduler
    for number in range(4):
        scheduler.add(Sequence(number, [number + 1] * 3, 3, SamplingParams(), 0, 16, frozenset()))
    scheduler.max_sequences = 3
    while len(scheduler.running) != 2:
        scheduler.postprocess(*both(simulation))
    assert [sequence.id for sequence in scheduler.running] == [0, 1]
    assert [sequence.id for sequence in scheduler.waiting] == [2, 3]
    ended: list[int] = []
    while not scheduler.idle:
        events = scheduler.postprocess(*both(simulation))
        ended += [event.request for event in events if event.finish_reason is not None]
    assert ended == [0, 1, 2, 3]


def both(simulation: Simulation) -> tuple[list[Span], list[TokenLogprob]]:
    plan = simulation.scheduler.schedule()
    return plan, simulation.compute(plan)


def event_of(events: list[Event], request: int) -> Event | None:
    return next((event for event in events if event.request == request), None)


def test_an_error_ends_one_request_and_frees_its_pages() -> None:
    pool = BlockPool(8, 4)
    scheduler = Scheduler(pool, 8, 8)
    for number in range(2):
        scheduler.add(Sequence(number, [1, 2], 2, SamplingParams(), 0, 20, frozenset()))
    events = scheduler.postprocess(scheduler.schedule(), ["it broke", TokenLogprob(5, -1.0)])
    assert events[0] == Event(0, None, "error", "it broke")
    assert events[1] == Event(1, TokenLogprob(5, -1.0))
    assert pool.free == 7
    assert [sequence.id for sequence in scheduler.running] == [1]
