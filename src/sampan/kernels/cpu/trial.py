"""Times real steps of a model, at its first load, to choose its tuning (`tuning.py`).

A few layers stand for all, so that a large model takes no longer than a small one: as many as do not fit
into a cache, on pages of their own, with spans that belong to nobody. Candidates take turns and the fastest
of each one's turns counts; what two turns of all have no time for keeps its default.
"""

from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import inf
from time import perf_counter
from typing import TypeVar

from sampan.kernels.backend import PAGE, CacheSize, Span
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu import tuning as t
from sampan.kernels.cpu.machine import Machine
from sampan.kernels.cpu.panels import PackedWeights
from sampan.kernels.cpu.planner import make_plan
from sampan.kernels.cpu.program import NativeProgram
from sampan.kernels.graph import Graph

_START = 64  # tokens before a step: earlier ones are computed with more bits
PAGES = (_START + t.CHUNKS[-1]) // PAGE
"""Pages of cache that a measurement needs."""
PROBE_BYTES = 2**29
"""The most memory that `huge_pages` takes."""

_LAYERS_BYTES = 64_000_000
_CAP = 1.6  # seconds for all steps together
_AIM = 0.25  # seconds for one comparison, when the least turns of it take less
_LEAST_TURNS = 2
_CHEAP_ROWS = 8  # about as many take twice as long as one, to guess a step's time before it is known
_ALL_DIRECT, _ALL_UNPACKED = t.DIRECT[-1], 1

K = TypeVar("K", bound=Hashable)


def huge_pages(here: Machine) -> bool:
    """Whether memory is read faster in huge pages; asked once more before they are given up."""
    return t.choose_huge_pages(*_bandwidths(here)) or t.choose_huge_pages(*_bandwidths(here))


def _bandwidths(here: Machine) -> tuple[float, float]:
    """Bytes read a second, with and without."""
    found = []
    for use in (True, False):
        _native.use_huge_pages(use)
        found.append(_native.read_bandwidth(here.pool))
    _native.use_huge_pages(True)
    return found[0], found[1]


def tune(
    first: Callable[[int], Graph],
    layers: int,
    weights: PackedWeights,
    machines: Sequence[Machine],
    cache: str,
    weight_bytes: int,
) -> t.Tuning:
    """The tuning of a model of so many layers, which take `weight_bytes`. `first`: the graph of its first
    layers and the head. `machines`: with each thread count to try, the default first. The weights that this
    needs are packed; all other memory is given back."""
    count = min(layers, 2 + _LAYERS_BYTES // max(weight_bytes // layers, 1))
    trials = {here.threads: _Trial(first(count), weights, here, cache) for here in machines}
    most = machines[0].threads
    clock = _Clock(trials[most].one_row())
    threads = _threads(clock, trials, most)
    trial = trials[threads]
    del trials
    steps = _row_counts(clock, trial)
    direct = {rows: steps[rows, _ALL_DIRECT] for rows in t.DIRECT if steps}
    unpacked = {rows: steps[rows, _ALL_UNPACKED] for rows in t.DIRECT if steps}
    direct_rows = t.choose_direct_rows(direct, unpacked)
    best = {rows: direct[rows] if rows <= direct_rows else unpacked[rows] for rows in direct}
    if steps:
        best[1] = steps[1, _ALL_DIRECT]
    chunk_rows = t.choose_chunk_rows(_chunks(clock, trial), layers / count)
    row_block = t.choose_row_block(_blocks(clock, trial, chunk_rows))
    return t.Tuning(
        threads=threads,
        direct_rows=direct_rows,
        row_block=row_block,
        chunk_rows=chunk_rows,
        draft_rows=t.choose_draft_rows(best),
    )


class _Trial:
    """The first layers and the head, on one thread count."""

    def __init__(self, graph: Graph, weights: PackedWeights, here: Machine, cache: str) -> None:
        plan = make_plan(graph, weights.layout, t.CHUNKS[-1])
        self._program = NativeProgram(plan, weights, CacheSize(PAGES, cache, 1), here)
        vocabulary = next(node.detail.shape[0] for node in graph.nodes if node.op == "embed")
        self._tokens = [i * 7919 % vocabulary for i in range(t.CHUNKS[-1])]
        self._pages = array("i", range(PAGES))

    def step(
        self,
        rows: int,
        *,
        sampled: bool,
        direct_rows: int = t.DEFAULT.direct_rows,
        row_block: int = t.DEFAULT.row_block,
    ) -> Callable[[], float]:
        """Runs a step and gives its seconds; `sampled`: with the logits of every row."""
        span = Span(self._tokens[:rows], _START, self._pages, rows if sampled else 0, writes=0)

        def run() -> float:
            self._program.tune(direct_rows, row_block)
            start = perf_counter()
            self._program.run([span])
            return perf_counter() - start

        return run

    def one_row(self) -> float:
        """Seconds of a step that decodes, after one that touched the memory."""
        step = self.step(1, sampled=True)
        step()
        return min(step(), step())


class _Clock:
    """Shares the time out. `one_row`: seconds of the smallest step."""

    def __init__(self, one_row: float) -> None:
        self._one_row = one_row
        self._end = perf_counter() + _CAP

    def guess(self, rows: int) -> float:
        """Seconds of a step that nobody has timed."""
        return self._one_row * (1 + rows / _CHEAP_ROWS)

    def compare(self, steps: Mapping[K, Callable[[], float]], guess: float) -> dict[K, float]:
        """Least seconds of each step; nothing where two turns, guessed to take `guess` each, are too long."""
        times = dict.fromkeys(steps, inf)
        start = now = perf_counter()
        turns = 0
        while turns < _LEAST_TURNS or now + guess < start + _AIM:
            if now + guess * max(1, _LEAST_TURNS - turns) > self._end:
                break
            for key, step in steps.items():
                times[key] = min(step(), times[key])
            now, turns = perf_counter(), turns + 1
            guess = (now - start) / turns
        return times if turns >= _LEAST_TURNS else {}


def _threads(clock: _Clock, trials: Mapping[int, _Trial], most: int) -> int:
    if len(trials) == 1:
        return most
    rows = t.CHUNKS[0]
    steps = {}
    for count, trial in trials.items():
        steps[count, 1] = trial.step(1, sampled=True)
        steps[count, rows] = trial.step(rows, sampled=False)
    times = clock.compare(steps, len(trials) * (clock.guess(1) + clock.guess(rows)))
    decode = {count: seconds for (count, n), seconds in times.items() if n == 1}
    prompt = {count: seconds for (count, n), seconds in times.items() if n == rows}
    return t.choose_threads(most, decode, prompt)


def _row_counts(clock: _Clock, trial: _Trial) -> dict[tuple[int, int], float]:
    """By rows and the tuning's direct rows."""
    ways = [(rows, way) for rows in t.DIRECT for way in (_ALL_DIRECT, _ALL_UNPACKED)]
    steps = {
        (rows, way): trial.step(rows, sampled=True, direct_rows=way)
        for rows, way in [(1, _ALL_DIRECT), *ways]
    }
    return clock.compare(steps, sum(clock.guess(rows) for rows, _ in steps))


def _chunks(clock: _Clock, trial: _Trial) -> dict[int, float]:
    steps = {rows: trial.step(rows, sampled=False) for rows in t.CHUNKS}
    return clock.compare(steps, sum(map(clock.guess, steps)))


def _blocks(clock: _Clock, trial: _Trial, rows: int) -> dict[int, float]:
    """Of a chunk; a block that is not smaller than the chunk is the default's equal there."""
    default = t.DEFAULT.row_block
    others = [block for block in t.BLOCKS if min(block, rows) != min(default, rows)]
    steps = {block: trial.step(rows, sampled=False, row_block=block) for block in (default, *others)}
    return clock.compare(steps, len(steps) * clock.guess(rows))
