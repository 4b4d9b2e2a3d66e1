"""A small decoder on random weights in memory, and what it computes without a cache's pages."""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sampan.kernels.backend import PAGE, AdapterRoom, CacheSize, Span
from sampan.kernels.formats import TensorType
from sampan.kernels.graph import Graph
from sampan.kernels.ops import Attention, Batch, Linear, Norm, Ops, Rope, Weight
from sampan.kernels.recorder import record
from sampan.kernels.torch.backend import TorchBackend
from sampan.kernels.torch.history import History, step_of
from sampan.kernels.torch.ops import evaluate

HIDDEN, VOCAB = 48, 5000  # more than one of the sums that a logarithm is taken of


def forward(ops: Ops, batch: Batch) -> Any:
    """Two layers of different heads; the head reads the embedding's table; a value of all rows is kept."""
    table = Weight("embed.weight", (VOCAB, HIDDEN))
    x = ops.embed(table, batch.ids)
    for layer, (heads, kv, size, value) in enumerate(((4, 2, 16, 16), (2, 1, 24, 8))):
        sizes = (heads * size, kv * size, kv * value)
        n = ops.norm(x, Norm(Weight(f"{layer}.norm.weight", (HIDDEN,)), 1e-5))
        q, k, v = ops.linear(n, Linear.of(*(f"{layer}.{p}" for p in "qkv"), sizes=sizes, inputs=HIDDEN))
        rope = Rope(tuple(100.0 ** (-i / 4) for i in range(4)), size, 1.1, "half", 8)
        q, k = ops.rope(q, batch.positions, rope), ops.rope(k, batch.positions, rope)
        y = ops.attend(q, k, v, batch.cache, Attention(layer, heads, kv, size, value, size**-0.5))
        x = x + ops.linear(y, Linear.of(f"{layer}.out", sizes=(HIDDEN,), inputs=heads * value))
    ops.keep(x, "hidden")
    x = ops.rows(x, batch.sampled)
    gate_up = ops.linear(x, Linear.of("gate", "up", sizes=(32, 32), inputs=HIDDEN, bias=True))
    x = x + ops.linear(ops.swiglu(gate_up), Linear.of("down", sizes=(HIDDEN,), inputs=32))
    return ops.head(ops.norm(x, Norm(Weight("norm.weight", (HIDDEN,)), 1e-5)), Linear((table,)))


class Memory:
    """See `backend.Tensors`. `released`: how often each was."""

    where = "memory"

    def __init__(self, graph: Graph) -> None:
        self.released: dict[str, int] = {}
        self.packed: dict[str, Any] = {}
        self.type = TensorType.F32
        self.arrays: dict[str, np.ndarray] = {}
        for name, weight in graph.weights().items():
            rng = np.random.default_rng(sum(map(ord, name)))
            values = rng.normal(len(weight.shape) == 1, 0.2, weight.shape)
            self.arrays[name] = values.astype(np.float32)

    def info(self, name: str) -> Any:
        return type("Info", (), {"shape": self.arrays[name].shape, "type": self.type})

    def array(self, name: str) -> np.ndarray:
        return self.arrays[name].copy()

    def release(self, name: str, *_: object) -> None:
        self.released[name] = self.released.get(name, 0) + 1


class Small:
    """The decoder on the torch backend, with pages that are handed out in a mixed order."""

    def __init__(
        self, *, pages: int = 64, rows: int = 512, cache: str = "f32", room: AdapterRoom | None = None,
        backend: TorchBackend | None = None,
    ) -> None:  # fmt: skip
        self.backend = backend or TorchBackend()
        self.graph = record(forward)
        self.memory = Memory(self.graph)
        self.weights = self.backend.place(self.memory)
        self.program = self.backend.compile(self.graph, self.weights, CacheSize(pages, cache), rows, room)
        self.free = np.random.default_rng(1).permutation(pages).tolist()

    def pages(self, tokens: int) -> array:
        return array("i", [self.free.pop() for _ in range(-(-tokens // PAGE))])

    def expected(self, ids: Sequence[int], **changed: np.ndarray) -> np.ndarray:
        """Every row's logits, in float64 and without pages."""
        arrays = self.memory.arrays | changed
        weights = {name: torch.from_numpy(values).double() for name, values in arrays.items()}
        return evaluate(self.graph, weights, step_of([(History(), ids)], sample_all=True))["logits"].numpy()


@pytest.fixture(scope="session")
def small() -> Callable[..., Small]:
    return Small


def tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).tolist()


@pytest.fixture(scope="session")
def ids() -> Callable[..., list[int]]:
    return tokens


@pytest.fixture(scope="session")
def whole() -> Callable[..., Span]:
    """A sequence's first step."""
    return lambda ids, pages, sampled=1, slot=-1: Span(list(ids), 0, pages, sampled, slot)
