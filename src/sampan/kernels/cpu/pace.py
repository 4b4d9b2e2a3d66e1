"""How fast this machine's kernels are, each measured alone: what the speed of a model is computed from.

Programs of a few instructions, on bytes that do not matter: products of matrices that together do not fit
into a cache, by rows; attention in a model's own shapes; and instructions with next to no work in them. The
fastest of several runs counts, as other work can only add to it.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from time import perf_counter
from typing import NamedTuple

from sampan.kernels.backend import PAGE, CacheSize, Span
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.layout import Layout
from sampan.kernels.cpu.machine import Machine
from sampan.kernels.cpu.panels import PackedWeights
from sampan.kernels.cpu.planner import make_plan
from sampan.kernels.cpu.program import NativeProgram
from sampan.kernels.formats import PackedMatrix, TensorType
from sampan.kernels.graph import Graph, Recorder
from sampan.kernels.imagined import Imagined, ImaginedTensors
from sampan.kernels.ops import Attention, Linear, Norm, Weight

ROWS = (1, 4, 16, 64, 512)
"""Of products that are timed; between them time grows linearly."""

_K, _N = 2048, 8192  # inputs and outputs, as in a model of 1 to 3 billion parameters
_BYTES = 100_000_000  # of one measurement's weights: several times a cache
_AWAY = 96  # tokens before a step: rows of earlier ones are computed with more bits
_CONTEXT = 2048 - PAGE
_ATTEND_ROWS = 128
_SECONDS = 0.12  # for one measurement
_FLOATS = {3: TensorType.F16, 4: TensorType.BF16, 5: TensorType.F32}
_CODES = {0: True, 1: False, 2: False}  # stores of integers, and whether a group has a minimum


class Attending(NamedTuple):
    """Seconds of one layer for each token of context: of one row that decodes, and of a row of many."""

    decode: float
    prefill: float


class Pace:
    """Of one machine; what is asked for twice is measured once."""

    def __init__(self, here: Machine) -> None:
        self._here = here
        self.times = cache(self._times)
        self.attending = cache(self._attending)
        self.phase = cache(self._phase)

    def product(self, store: int, weights: float, rows: float) -> float:
        """Seconds of a product with a matrix of so many weights."""
        times = self.times(store)
        place = min(max(bisect_left(ROWS, rows), 1), len(ROWS) - 1)
        (low, high), (before, after) = ROWS[place - 1 : place + 1], times[place - 1 : place + 1]
        return weights * max(before + (after - before) * (rows - low) / (high - low), min(times))

    def _times(self, store: int) -> tuple[float, ...]:
        """Seconds for a weight, by rows; more rows never take less."""
        graph, tensors, weights = _products(store)
        run = _Runs(graph, tensors, self._here, 1 + (_AWAY + ROWS[-1]) // PAGE)
        found = [run.seconds(rows, _AWAY) / weights for rows in ROWS]
        return tuple(min(found[place:]) for place in range(len(found)))

    def _attending(self, shape: Attention) -> Attending:
        graph, tensors, layers = _attentions(shape)
        run = _Runs(graph, tensors, self._here, (_CONTEXT + _ATTEND_ROWS) // PAGE + 2)
        far, near = (run.seconds(1, before) for before in (_CONTEXT, PAGE))
        many, few = (run.seconds(_ATTEND_ROWS, before) for before in (_CONTEXT, PAGE))
        tokens = layers * (_CONTEXT - PAGE)
        return Attending(max(far - near, 0) / tokens, max(many - few, 0) / tokens / _ATTEND_ROWS)

    def _phase(self) -> float:
        """Seconds of an instruction beside its work."""
        graph, tensors, _ = _products(2, 64, 64, 64)
        run = _Runs(graph, tensors, self._here, 4)
        return run.seconds(1, _AWAY) / run.phases


class _Runs:
    """A compiled graph whose steps are timed."""

    def __init__(self, graph: Graph, tensors: ImaginedTensors, here: Machine, pages: int) -> None:
        plan = make_plan(graph, Layout(tensors), ROWS[-1])
        self.phases = phases(plan.instructions)
        self._program = NativeProgram(plan, PackedWeights(tensors, here), CacheSize(pages), here)
        self._pages = array("i", range(pages))

    def seconds(self, rows: int, before: int) -> float:
        """The least of some runs."""
        span = Span([1] * rows, before, self._pages, 0)
        return fastest(lambda: self._program.run([span]))


def phases(instructions: Sequence[object]) -> int:
    """Instructions that wait for those before them."""
    return sum(not getattr(each, "fields").get("joined", False) for each in instructions)  # noqa: B009


def fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of the runs that fit into `_SECONDS`; of two at least."""
    best, turns, end = float("inf"), 0, perf_counter() + _SECONDS
    while turns < 2 or perf_counter() < end:
        start = perf_counter()
        run()
        best, turns = min(best, perf_counter() - start), turns + 1
    return best


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
    else:
        made = _native.Packed(n, k, store, 32, False, _CODES[store], 0 if _CODES[store] else 128)
    return PackedMatrix(
        {name: n}, n, k, store, made.group, made.wide, made.has_min, made.zero, made.data.nbytes,
        TensorType.BF16,
    )  # fmt: skip


def _products(store: int, k: int = _K, n: int = _N, pairs: int = 0) -> tuple[Graph, ImaginedTensors, int]:
    """Pairs of products there and back, each after a norm, and their weights; `pairs`: 0 for `_BYTES`."""
    names, ops = _Names(store), Recorder()
    x = ops.embed(names.matrix(16, k, 2), None)
    weights, start = 0, names.bytes
    while weights < 2 * n * k * pairs if pairs else names.bytes - start < _BYTES:
        h = ops.norm(x, names.norm(k))
        inner = ops.linear(h, Linear((names.matrix(n, k),)))
        x = ops.add(x, ops.linear(inner, Linear((names.matrix(k, n),))))  # type: ignore[arg-type]
        weights += 2 * n * k
    ops.keep(x, "x")
    return ops.graph(), names.tensors(), weights


def _attentions(shape: Attention) -> tuple[Graph, ImaginedTensors, int]:
    """Attention alone, in as many layers as do not fit into a cache, eight at most."""
    layers = min(8, 1 + _BYTES // (2 * shape.cached * _CONTEXT))
    names, ops = _Names(2), Recorder()
    for layer in range(layers):
        q = ops.embed(names.matrix(16, shape.heads * shape.key_size), None)
        k = ops.embed(names.matrix(16, shape.kv_heads * shape.key_size), None)
        v = None if shape.latent else ops.embed(names.matrix(16, shape.kv_heads * shape.value_size), None)
        own = Attention(
            layer, shape.heads, shape.kv_heads, shape.key_size, shape.value_size, shape.scale, shape.latent
        )
        ops.keep(ops.attend(q, k, v, None, own), f"y{layer}")
    return ops.graph(), names.tensors(), layers
