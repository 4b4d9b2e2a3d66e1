"""How fast this machine's kernels are, each measured alone: what the speed of a model is computed from.

Programs of a few instructions, on bytes that do not matter: products of matrices that together do not fit
into a cache, by rows; attention in a model's own shapes; and small products, whose number counts. The middle
one of several runs stands for all: what a model can expect of the machine as it is now.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from statistics import median
from time import perf_counter
from typing import NamedTuple

from sampan.kernels.backend import PAGE, CacheSize, Span
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.layout import E4M3, Layout
from sampan.kernels.cpu.machine import Machine
from sampan.kernels.cpu.panels import PackedWeights
from sampan.kernels.cpu.planner import make_plan
from sampan.kernels.cpu.program import NativeProgram
from sampan.kernels.formats import PackedMatrix, TensorType
from sampan.kernels.graph import Graph
from sampan.kernels.imagined import Imagined, ImaginedTensors
from sampan.kernels.ops import Attention, Linear, Norm, Weight
from sampan.kernels.recorder import Recorder

ROWS = (1, 4, 16, 64, 512)
"""Of products that are timed; between them time grows linearly."""

_K, _N = 2048, 8192  # inputs and outputs, as in a model of 1 to 3 billion parameters
_BYTES = 100_000_000  # of one measurement's weights: several times a cache
_MANY = 64  # rows that take so long that two matrices will do
_SMALL, _PAIRS = 512, 128  # matrices as small as a model has them: as many weights as a few large ones
_AWAY = 96  # tokens before a step: rows of earlier ones are computed with more bits
_CONTEXT = 2048 - PAGE
_ATTEND_ROWS = 128
_SECONDS = 0.12  # for one measurement
_FLOATS = {3: TensorType.F16, 4: TensorType.BF16, 5: TensorType.F32}
_U8 = 2
_CODES = {0: True, 1: False, 2: False}  # stores of integers, and whether a group has a minimum
_BLOCK = 128  # inputs that share a scale of E4M3, as published


Step = Callable[[], object]


class Attending(NamedTuple):
    """Seconds of one layer for each token of context: of one row that decodes, and of a row of many."""

    decode: float
    prefill: float


class Pace:
    """Of one machine; what is asked for twice is measured once."""

    def __init__(self, here: Machine) -> None:
        self._here = here
        self._products = cache(self._compiled)
        self.weight = cache(self._weight)
        self.attending = cache(self._attending)
        self.phase = cache(self._phase)

    def product(self, store: int, weights: float, rows: float, *, fine: bool = False) -> float:
        """Seconds of a product with a matrix of so many weights; `fine`: its rows have two planes."""
        if rows <= ROWS[0]:
            return weights * self.weight(store, ROWS[0], fine)
        rows *= 1 + fine
        place = min(bisect_left(ROWS, rows), len(ROWS) - 1)
        low, high = ROWS[place - 1 : place + 1]
        less, more = (self.weight(store, each) for each in (low, high))
        return weights * (less + max(more - less, 0) * (rows - low) / (high - low))

    def _weight(self, store: int, rows: int, fine: bool = False) -> float:
        """Seconds for each weight of a product."""
        step, weights = self.step(store, rows, fine)
        return middle(step) / weights

    def step(self, store: int, rows: int, fine: bool = False) -> tuple[Step, int]:
        """What is timed for that, and its weights."""
        run, weights = self._products(store, 0 if rows < _MANY else 2 * _N * _K)
        return run.step(rows, 0 if fine else _AWAY), weights

    def _compiled(self, store: int, count: int) -> "tuple[_Runs, int]":
        graph, tensors, weights = _products(store, count=count)
        return _Runs(graph, tensors, self._here, 1 + (_AWAY + ROWS[-1]) // PAGE), weights

    def _attending(self, shape: Attention) -> Attending:
        graph, tensors, layers = _attentions(shape)
        run = _Runs(graph, tensors, self._here, (_CONTEXT + _ATTEND_ROWS) // PAGE + 2)
        tokens = layers * (_CONTEXT - PAGE)
        one, many = (
            difference(run.step(rows, _CONTEXT), run.step(rows, PAGE)) / rows / tokens
            for rows in (1, _ATTEND_ROWS)
        )
        return Attending(one, many)

    def _phase(self) -> float:
        """Seconds of an instruction beside its work: what small matrices take longer than large ones, for as
        many bytes."""
        small, large = (
            _Runs(*_products(_U8, n, k, 2 * _SMALL * _SMALL * _PAIRS)[:2], self._here, 4)
            for n, k in ((_SMALL, _SMALL), (_N, _K))
        )
        longer = difference(small.step(1, _AWAY), large.step(1, _AWAY))
        return longer / (small.phases - large.phases)


class _Runs:
    """A compiled graph whose steps are timed."""

    def __init__(self, graph: Graph, tensors: ImaginedTensors, here: Machine, pages: int) -> None:
        plan = make_plan(graph, Layout(tensors), ROWS[-1])
        self.phases = phases(plan.instructions)
        self._program = NativeProgram(plan, PackedWeights(tensors, here), CacheSize(pages), here)
        self._pages = array("i", range(pages))

    def step(self, rows: int, before: int) -> Step:
        """A step of one sequence."""
        span = Span([1] * rows, before, self._pages, 0)
        return lambda: self._program.run([span])


def phases(instructions: Sequence[object]) -> int:
    """Instructions that wait for those before them."""
    return sum(not getattr(each, "fields").get("joined", False) for each in instructions)  # noqa: B009


def middle(run: Step) -> float:
    """Seconds of the middle one of some runs."""
    return median(seconds for (seconds,) in _turns(run))


def difference(longer: Step, shorter: Step) -> float:
    """Seconds between two steps that take turns, so that other work touches both; at least none."""
    return max(median(one - other for one, other in _turns(longer, shorter)), 0)


def _turns(*steps: Step) -> list[tuple[float, ...]]:
    """Seconds of each step by turns, as many as fit into `_SECONDS` each, after one that touches the
    memory."""
    found: list[tuple[float, ...]] = []
    for step in steps:
        step()
    end = perf_counter() + _SECONDS * len(steps)
    while not found or perf_counter() < end:
        found.append(tuple(_timed(step) for step in steps))
    return found


def _timed(step: Step) -> float:
    start = perf_counter()
    step()
    return perf_counter() - start


class _Names:
    """Weights as they are made up, with what a file would say of them."""

    def __init__(self, store: int) -> None:
        self._store = store
        self._infos: dict[str, Imagined] = {}
        self._packed: dict[str, PackedMatrix] = {}

    def matrix(self, n: int, k: int, store: int | None = None) -> Weight:
        name = f"{len(self._infos)}.weight"
        self._infos[name] = Imagined((n, k), TensorType.BF16)
        self._packed[name] = _matrix(name, n, k, self._store if store is None else store)
        return Weight(name, (n, k))

    def norm(self, size: int) -> Norm:
        name = f"{len(self._infos)}.weight"
        self._infos[name] = Imagined((size,), TensorType.F32)
        return Norm(Weight(name, (size,)), 1e-6)

    def tensors(self) -> ImaginedTensors:
        return ImaginedTensors(self._infos, self._packed)

    @property
    def bytes(self) -> int:
        return sum(matrix.bytes for matrix in self._packed.values())


def _matrix(name: str, n: int, k: int, store: int) -> PackedMatrix:
    if store in _FLOATS:
        made = _native.Packed.of(n, k, _FLOATS[store].number)
    elif store == E4M3:
        made = _native.Packed(n, k, store, _BLOCK, False, False, 0)
    else:
        made = _native.Packed(n, k, store, 32, False, _CODES[store], 0 if _CODES[store] else 128)
    return PackedMatrix(
        {name: n}, n, k, store, made.group, made.wide, made.has_min, made.zero, made.data.nbytes,
        TensorType.BF16, k,
    )  # fmt: skip


def _products(store: int, n: int = _N, k: int = _K, count: int = 0) -> tuple[Graph, ImaginedTensors, int]:
    """Pairs of products there and back, each after a norm, and their weights: `count`, or `_BYTES`."""
    names, ops = _Names(store), Recorder()
    x = ops.embed(names.matrix(16, k, _U8), None)
    weights, start = 0, names.bytes
    while weights < count if count else names.bytes - start < _BYTES:
        h = ops.norm(x, names.norm(k))
        inner = ops.linear(h, Linear((names.matrix(n, k),)))
        x = ops.add(x, ops.linear(inner, Linear((names.matrix(k, n),))))  # type: ignore[arg-type]
        weights += 2 * n * k
    ops.keep(x, "x")
    return ops.graph(), names.tensors(), weights


def _attentions(shape: Attention) -> tuple[Graph, ImaginedTensors, int]:
    """Attention alone, in as many layers as do not fit into a cache, eight at most."""
    layers = min(8, 1 + _BYTES // (2 * shape.cached * _CONTEXT))
    names, ops = _Names(_U8), Recorder()
    for layer in range(layers):
        q = ops.embed(names.matrix(16, shape.heads * shape.key_size), None)
        k = ops.embed(names.matrix(16, shape.kv_heads * shape.key_size), None)
        v = None if shape.latent else ops.embed(names.matrix(16, shape.kv_heads * shape.value_size), None)
        own = Attention(
            layer, shape.heads, shape.kv_heads, shape.key_size, shape.value_size, shape.scale, shape.latent
        )
        ops.keep(ops.attend(q, k, v, None, own), f"y{layer}")
    return ops.graph(), names.tensors(), layers
