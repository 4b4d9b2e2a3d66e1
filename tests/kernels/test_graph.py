"""Any program of the operations computes what it says: the native plan against PyTorch, node by node."""

from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.core.errors import UnsupportedModel
from sampan.core.settings import Settings
from sampan.kernels.backend import AdapterRoom, CacheSize, Span
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.formats import TensorType
from sampan.kernels.graph import Graph
from sampan.kernels.ops import Attention, Batch, Experts, Linear, Norm, Ops, PerHead, Rope, Router, Weight
from sampan.kernels.recorder import record
from sampan.kernels.torch.backend import TorchBackend
from sampan.kernels.torch.history import History, step_of
from sampan.kernels.torch.ops import evaluate

HIDDEN, VOCAB, TOKENS, SAMPLED = 64, 97, 40, 7
FIXED = {"type": TensorType.F32, "form": None, "turned": False}
NOISE = 2e-5  # of a value's range; measured up to 2e-6
BACKEND = CpuBackend(Settings(Path(), tune=False), 2)


class Memory:
    """Random float32 tensors, made when a graph first names them."""

    where, packed = "memory", dict[str, Any]()

    def __init__(self, graph: Graph) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        norms = {node.detail.weight for node in graph.nodes if node.op == "norm"}
        for weight in graph.weights().values():
            self._make(weight, 1.0 if weight in norms else 0.0)

    def _make(self, weight: Weight, centre: float) -> None:
        rng = np.random.default_rng(sum(map(ord, weight.name)))
        scale = 0.3 if len(weight.shape) == 1 else weight.shape[-1] ** -0.5
        values = (centre + scale * rng.normal(size=weight.shape)).astype(np.float32)
        self.arrays.setdefault(weight.name, values)

    def info(self, name: str) -> Any:
        return type("Info", (), FIXED | {"shape": self.arrays[name].shape})

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        return np.ascontiguousarray(self.arrays[name][start:stop]).reshape(-1).view(np.uint8)

    def array(self, name: str) -> np.ndarray:
        return self.arrays[name].copy()

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self.arrays[name][start:stop]

    def row_order(self, _name: str) -> None:
        return None

    def release(self, *_: object) -> None:
        pass

    def panels(self, name: str) -> np.ndarray:
        raise AssertionError(name)


def check(forward: Callable[[Ops, Batch], Any], room: AdapterRoom | None = None) -> None:
    """Both backends against the eager walk, and the plan's bytes against those that are taken."""
    graph = record(forward)
    memory = Memory(graph)
    ids = np.random.default_rng(5).integers(0, VOCAB, TOKENS).tolist()
    history = History()
    double = {name: torch.from_numpy(values).double() for name, values in memory.arrays.items()}
    step = replace(step_of([(history, ids)]), sampled=torch.arange(TOKENS - SAMPLED, TOKENS))
    expected = {name: values.numpy() for name, values in evaluate(graph, double, step).items()}
    pages = array("i", (2, 0))
    for backend in (BACKEND, TorchBackend()):
        backend.check(graph, "a graph")
        needs = backend.needs(graph, memory, 48, room)
        program = backend.compile(graph, backend.place(memory), CacheSize(3, "f32", 2), 48, room)
        assert program.workspace_bytes == needs.workspace
        program.run([Span(ids[:17], 0, pages, 0, writes=1)])  # in chunks, the second of which is sampled
        rows = program.run([Span(ids[17:], 17, pages, SAMPLED, reads=1, writes=0)])
        for name, values in expected.items():
            found = rows.logits if name == "logits" else rows.kept(name)
            want = values if len(values) == SAMPLED else values[17:]
            assert found.shape == want.shape
            assert np.abs(found - want).max() <= NOISE * (values.max() - values.min()), (backend.name, name)


def linear(name: str, inputs: int, *outputs: int, bias: bool = False) -> Linear:
    names = [f"{name}.{place}" for place in range(len(outputs))]
    return Linear.of(*names, sizes=outputs, inputs=inputs, bias=bias)


def norm(name: str, size: int = HIDDEN) -> Norm:
    return Norm(Weight(f"{name}.weight", (size,)), 1e-5)


def rope(head: int, size: int | None = None, form: Any = "half", first: int = 0) -> Rope:
    pairs = (size or head) // 2
    return Rope(tuple(100.0 ** (-i / pairs) for i in range(pairs)), head, 1.1, form, first)


def embed(ops: Ops, batch: Batch) -> Any:
    return ops.embed(Weight("embed.weight", (VOCAB, HIDDEN)), batch.ids)


def finish(ops: Ops, batch: Batch, x: Any) -> Any:
    return ops.head(ops.norm(ops.rows(x, batch.sampled), norm("last")), linear("head", HIDDEN, VOCAB))


def some_experts(name: str, **router: Any) -> Experts:
    up = tuple(linear(f"{name}.up{n}", HIDDEN, 96, 96) for n in range(8))
    down = tuple(linear(f"{name}.down{n}", 96, HIDDEN) for n in range(8))
    return Experts(Router(Weight(f"{name}.router", (8, HIDDEN), exact=True), **router), up, down)


def mixtures(ops: Ops, batch: Batch) -> Any:
    """Routers of both kinds, of a norm and of floats, of all rows and of the sampled."""
    x = embed(ops, batch)
    a = ops.experts(ops.norm(x, norm("one")), some_experts("a", chosen=2))
    limited = {"groups": 4, "groups_kept": 2, "group_top": 2, "bias": Weight("b.bias", (8,))}
    b = ops.experts(x, some_experts("b", chosen=3, scores="sigmoid", scale=2.5, **limited))
    x = ops.rows(x + ops.keep(a, "mixed") + b, batch.sampled)
    x = x + ops.experts(x, some_experts("c", chosen=1, normalised=False))
    return ops.head(ops.norm(x, norm("last")), linear("head", HIDDEN, VOCAB))


def latent(ops: Ops, batch: Batch) -> Any:
    """Six heads of 32 plain and 32 rotated features over a latent vector of 96."""
    x = embed(ops, batch)
    q = ops.rope(ops.linear(x, linear("q", HIDDEN, 384)), batch.positions, rope(64, 32, "interleaved", 32))
    c, k = ops.split(ops.linear(x, linear("kv", HIDDEN, 128)), (96, 32))
    keys = ops.concat(
        (ops.norm(c, norm("c", 96)), ops.rope(k, batch.positions, rope(32, form="interleaved")))
    )
    up, down = (tuple(Weight(f"{kind}{n}", (32, 96)) for n in range(6)) for kind in "uv")
    q = ops.per_head(q, PerHead(up, 64, transposed=True))
    y = ops.attend(q, keys, None, batch.cache, Attention(0, 6, 1, 128, 96, 0.1, latent=True))
    y = ops.linear(ops.per_head(ops.keep(y, "seen"), PerHead(down, 96)), linear("o", 192, HIDDEN))
    return finish(ops, batch, x + y)


def parallel(ops: Ops, batch: Batch) -> Any:
    x = embed(ops, batch)
    a = ops.linear(ops.norm(x, norm("one")), linear("a", HIDDEN, HIDDEN))
    b = ops.linear(ops.norm(x, norm("two")), linear("b", HIDDEN, HIDDEN))
    x = x + a
    return finish(ops, batch, x + b)


def two_gated(ops: Ops, batch: Batch) -> Any:
    x = embed(ops, batch)
    n = ops.norm(x, norm("one"))
    a, b = (
        ops.linear(
            ops.swiglu(ops.linear(n, linear(f"up{i}", HIDDEN, 96, 96))), linear(f"down{i}", 96, HIDDEN)
        )
        for i in "ab"
    )
    x = x + a
    return finish(ops, batch, x + b)


def q_beside_a_gate(ops: Ops, batch: Batch) -> Any:
    x = embed(ops, batch)
    n = ops.norm(x, norm("one"))
    q, gate = ops.linear(n, linear("qg", HIDDEN, 64, 64))
    k, v = ops.linear(n, linear("kv", HIDDEN, 32, 32, bias=True))
    q, k = (ops.rope(heads, batch.positions, rope(32)) for heads in (q, k))
    y = ops.attend(q, k, v, batch.cache, Attention(0, 2, 1, 32, 32, 0.2))
    return finish(ops, batch, x + ops.linear(ops.gate(y, gate), linear("out", 64, HIDDEN)))


def sum_of_linears(ops: Ops, batch: Batch) -> Any:
    n = ops.norm(embed(ops, batch), norm("one"))
    return finish(
        ops, batch, ops.linear(n, linear("a", HIDDEN, HIDDEN)) + ops.linear(n, linear("b", HIDDEN, HIDDEN))
    )


def norm_of_a_linear(ops: Ops, batch: Batch) -> Any:
    x = embed(ops, batch)
    c = ops.norm(ops.linear(ops.norm(x, norm("one")), linear("down", HIDDEN, 32)), norm("latent", 32))
    return finish(ops, batch, x + ops.linear(c, linear("up", 32, HIDDEN)))


def sizes_of_heads(ops: Ops, batch: Batch) -> Any:
    """Keys and values of two sizes, part of a head turned in pairs, hidden states kept, one gate for all."""
    x = ops.keep(embed(ops, batch), "embedded")
    n = ops.norm(x, norm("one"))
    q, k, v = ops.linear(n, linear("qkv", HIDDEN, 4 * 96, 2 * 96, 2 * 32))
    q, k = ops.norm(q, norm("q", 96)), ops.norm(k, norm("k", 96))
    q, k = (ops.rope(heads, batch.positions, rope(96, 32, "interleaved", 64)) for heads in (q, k))
    y = ops.attend(q, k, v, batch.cache, Attention(0, 4, 2, 96, 32, 0.1))
    z = ops.keep(x + ops.linear(y, linear("out", 128, HIDDEN)), "attended")
    z = ops.scale(z, 0.5) + x
    z = ops.gate(z, ops.linear(n, linear("one_gate", HIDDEN, 1)))
    a, b = ops.split(z, [16, 48])
    return finish(ops, batch, ops.concat([b, a]))


PROGRAMS = [
    parallel, two_gated, q_beside_a_gate, sum_of_linears, norm_of_a_linear, sizes_of_heads, mixtures, latent,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.parametrize("room", [None, AdapterRoom(2, 8)], ids=["plain", "with room for adapters"])
def test_programs_that_a_plan_by_roles_got_wrong(program: Any, room: AdapterRoom | None) -> None:
    check(program, room)


class Drawn:
    """A random program: each operation takes any of the values that there are."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self._layers = 0

    def __call__(self, ops: Ops, batch: Batch) -> Any:
        ops, values = ops, [embed(ops, batch)]
        for place in range(self._data.draw(st.integers(1, 12), label="operations")):
            kind = self._data.draw(st.sampled_from(KINDS), label="kind")
            made = getattr(self, f"_{kind}")(ops, batch, values, str(place))
            if self._data.draw(st.integers(0, 5), label="kept") == 0:
                ops.keep(made, f"value {place}")
            values.append(made)
        return finish(ops, batch, self._one(values))

    def _one(self, values: list[Any]) -> Any:
        """Of the last values more often."""
        return values[-1 - min(self._data.draw(st.integers(0, 5), label="which"), len(values) - 1)]

    def _add(self, _ops: Ops, _batch: Batch, values: list[Any], _name: str) -> Any:
        return self._one(values) + self._one(values)

    def _scale(self, ops: Ops, _batch: Batch, values: list[Any], _name: str) -> Any:
        return ops.scale(self._one(values), 0.7)

    def _norm(self, ops: Ops, _batch: Batch, values: list[Any], name: str) -> Any:
        return ops.norm(self._one(values), norm(name, self._data.draw(st.sampled_from([16, 32, HIDDEN]))))

    def _gate(self, ops: Ops, _batch: Batch, values: list[Any], _name: str) -> Any:
        return ops.gate(self._one(values), self._one(values))

    def _swiglu(self, ops: Ops, _batch: Batch, values: list[Any], _name: str) -> Any:
        return ops.swiglu((self._one(values), self._one(values)))

    def _linear(self, ops: Ops, _batch: Batch, values: list[Any], name: str) -> Any:
        return ops.linear(
            self._one(values), linear(name, HIDDEN, HIDDEN, bias=self._data.draw(st.booleans()))
        )

    def _mlp(self, ops: Ops, _batch: Batch, values: list[Any], name: str) -> Any:
        n = ops.norm(self._one(values), norm(f"n{name}"))
        halves = ops.linear(n, linear(f"up{name}", HIDDEN, 96, 96))
        return ops.linear(ops.swiglu(halves), linear(f"down{name}", 96, HIDDEN))

    def _cut(self, ops: Ops, _batch: Batch, values: list[Any], _name: str) -> Any:
        first = self._data.draw(st.integers(1, HIDDEN - 1))
        a, b = ops.split(self._one(values), [first, HIDDEN - first])
        return ops.concat([b, a])

    def _turn(self, ops: Ops, batch: Batch, values: list[Any], _name: str) -> Any:
        form = self._data.draw(st.sampled_from(["half", "interleaved"]))
        return ops.rope(self._one(values), batch.positions, rope(32, 20, form, 8))

    def _attention(self, ops: Ops, batch: Batch, values: list[Any], name: str) -> Any:
        layer, self._layers = self._layers, self._layers + 1
        n = self._one(values)
        q, k, v = ops.linear(n, linear(f"qkv{name}", HIDDEN, 128, 64, 32))
        if self._data.draw(st.booleans()):
            q, k = ops.norm(q, norm(f"q{name}", 64)), ops.norm(k, norm(f"k{name}", 64))
        if self._data.draw(st.booleans()):
            q, k = (ops.rope(heads, batch.positions, rope(64)) for heads in (q, k))
        y = ops.attend(q, k, v, batch.cache, Attention(layer, 2, 1, 64, 32, 0.2))
        return y if self._data.draw(st.booleans()) else ops.linear(y, linear(f"o{name}", 64, HIDDEN)) + n


KINDS = ["add", "scale", "norm", "gate", "swiglu", "linear", "mlp", "cut", "turn", "attention"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_program_computes_what_it_says(data: st.DataObject) -> None:
    check(Drawn(data), data.draw(st.sampled_from([None, AdapterRoom(1, 8)])))


def test_only_what_is_asked_for_is_computed() -> None:
    graph = record(sizes_of_heads)
    assert {node.op for node in graph.only(["embedded"]).nodes} == {"embed"}
    assert "head" not in {node.op for node in graph.only(["attended"]).nodes}
    with pytest.raises(UnsupportedModel, match="gives no 'hidden': it gives embedded, attended"):
        graph.only(["hidden"])
