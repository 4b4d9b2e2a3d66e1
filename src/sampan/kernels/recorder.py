"""Records any program of `ops` as a graph.

Shapes are checked here, once; a fault names the operation, where in the model it is, and the numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.core.errors import UnsupportedModel
from sampan.kernels.graph import LOGITS, Graph, Node, label_of
from sampan.kernels.ops import (
    Attention,
    Batch,
    Convolution,
    DeltaRule,
    Experts,
    Linear,
    Norm,
    Ops,
    PerHead,
    Rope,
    State,
    Weight,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Value:
    """A node while its model is being recorded: it adds with `+`."""

    recorder: "Recorder"
    node: Node

    def __add__(self, other: "Value") -> "Value":
        return self.recorder.add(self, other)


class Recorder:
    """The `Ops` whose values are nodes. One recorder records one graph."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._outputs: dict[str, Node] = {}

    def graph(self) -> Graph:
        """What was recorded so far."""
        return Graph(tuple(self._nodes), dict(self._outputs))

    def embed(self, table: Weight, ids: object) -> Value:
        return self._value("embed", (), table.shape[1], table, sampled=False)

    def given(self, values: object, width: int) -> Value:
        taken = any(node.op == "given" for node in self._nodes)
        _require(width > 0 and not taken, "given", None, f"{width} features, once in a model")
        return self._value("given", (), width, sampled=False)

    def norm(self, x: Value, norm: Norm) -> Value:
        size = norm.weight.shape[0]
        _require(x.node.width % size == 0, "norm", norm, f"{x.node.width} features are no runs of {size}")
        return self._value("norm", (x,), x.node.width, norm)

    def linear(self, x: Value, weight: Linear) -> Value | tuple[Value, ...]:
        parts = weight.parts
        for part in parts:
            fits = part.shape[1] == x.node.width
            _require(fits, "linear", weight, f"{part.name} reads {part.shape[1]} features of {x.node.width}")
        _require(sum(weight.joined) in (0, len(parts)), "linear", weight, f"joins {weight.joined} parts")
        whole = self._value("linear", (x,), sum(part.shape[0] for part in parts), weight)
        return whole if len(weight.outputs) == 1 else self.split(whole, weight.outputs)

    def add(self, x: Value, y: Value) -> Value:
        _same("add", x, y)
        return self._value("add", (x, y), x.node.width)

    def scale(self, x: Value, factor: float) -> Value:
        return self._value("scale", (x,), x.node.width, float(factor))

    def gate(self, x: Value, gate: Value) -> Value:
        if gate.node.width != 1:
            _same("gate", x, gate)
        return self._value("gate", (x, gate), x.node.width)

    def swiglu(self, gate_up: tuple[Value, Value]) -> Value:
        _same("swiglu", *gate_up)
        return self._value("swiglu", gate_up, gate_up[0].node.width)

    def split(self, x: Value, sizes: Sequence[int]) -> tuple[Value, ...]:
        whole = sum(sizes) == x.node.width and all(size > 0 for size in sizes)
        _require(whole, "split", None, f"{list(sizes)} of {x.node.width} features")
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        return tuple(
            self._value("slice", (x,), size, start) for start, size in zip(starts, sizes, strict=True)
        )

    def concat(self, parts: Sequence[Value]) -> Value:
        _require(bool(parts), "concat", None, "of nothing")
        return self._value("concat", tuple(parts), sum(part.node.width for part in parts))

    def rope(self, x: Value, positions: object, rope: Rope) -> Value:
        size = rope.head_size
        _require(x.node.width % size == 0, "rope", rope, f"{x.node.width} features are no heads of {size}")
        _require(not x.node.sampled, "rope", rope, "of sampled rows, which have no positions")
        inside = rope.first >= 0 and rope.first + rope.size <= size
        _require(inside, "rope", rope, f"{rope.size} features from {rope.first} on, of a head of {size}")
        return self._value("rope", (x,), x.node.width, rope)

    def attend(self, q: Value, k: Value, v: Value | None, cache: object, shape: Attention) -> Value:
        heads, kv = shape.heads, shape.kv_heads
        taken = any(node.op == "attend" and node.detail.layer == shape.layer for node in self._nodes)
        _require(not taken, "attend", shape, "the layer has a cache already")
        _require(kv > 0 and heads % kv == 0, "attend", shape, f"{heads} heads share {kv}")
        widths = (heads * shape.key_size, kv * shape.key_size, kv * shape.value_size)
        _require((v is None) == shape.latent, "attend", shape, "a latent one has no values of its own")
        values = (q, k) if v is None else (q, k, v)
        for name, value, width in zip("qkv", values, widths, strict=False):
            fits = value.node.width == width and not value.node.sampled
            _require(fits, "attend", shape, f"{name} has {value.node.width} features, its heads {width}")
        return self._value("attend", values, heads * shape.value_size, shape)

    def convolve(self, x: Value, cache: object, weight: Convolution) -> Value:
        channels, taps = weight.weight.shape
        fits = x.node.width == channels and taps > 1 and not x.node.sampled
        _require(fits, "convolve", weight, f"{channels} channels by {taps} taps, of {x.node.width}")
        return self._stateful("convolve", (x,), channels, weight)

    def delta(self, x: Value, b: Value, a: Value, cache: object, rule: DeltaRule) -> Value:
        _require(
            rule.heads % rule.key_heads == 0, "delta", rule, f"{rule.heads} heads share {rule.key_heads}"
        )
        for name, value, width in (("x", x, rule.width), ("b", b, rule.heads), ("a", a, rule.heads)):
            fits = value.node.width == width and not value.node.sampled
            _require(fits, "delta", rule, f"{name} has {value.node.width} features, its heads {width}")
        return self._stateful("delta", (x, b, a), rule.heads * rule.value_size, rule)

    def _stateful(self, op: str, inputs: Sequence[Value], width: int, detail: State) -> Value:
        taken = any(node.op == op and node.detail.layer == detail.layer for node in self._nodes)
        _require(not taken, op, detail, "the layer has a state already")
        return self._value(op, inputs, width, detail)

    def per_head(self, x: Value, weight: PerHead) -> Value:
        inputs, outputs = weight.sizes
        heads, size = len(weight.parts), weight.head_size
        fits = inputs <= size and x.node.width == heads * size
        _require(fits, "per_head", weight, f"{inputs} of {heads} heads of {size}, of {x.node.width} features")
        return self._value("per_head", (x,), heads * (size - inputs + outputs), weight)

    def experts(self, x: Value, experts: Experts) -> Value:
        router, width = experts.router, x.node.width
        count = router.weight.shape[0]
        whole = len(experts.gate_up) == len(experts.down) == count and count % router.groups == 0
        some = 0 < router.chosen <= count // router.groups * router.groups_kept
        _require(whole and some, "experts", experts, f"{router.chosen} of {count} in {router.groups} groups")
        for linear in (*experts.gate_up, *experts.down):
            for part in linear.parts:
                fits = width in part.shape
                _require(fits, "experts", experts, f"{part.name} is {part.shape}, of {width} features")
        return self._value("experts", (x,), width, experts)

    def rows(self, x: Value, index: object) -> Value:
        _require(not x.node.sampled, "rows", None, "of rows that are the sample already")
        return self._value("rows", (x,), x.node.width, sampled=True)

    def head(self, x: Value, weight: Linear) -> Value:
        outputs, inputs = weight.parts[0].shape
        fits = len(weight.parts) == 1 and inputs == x.node.width
        _require(fits, "head", weight, f"reads {inputs} features of {x.node.width}")
        return self.keep(self._value("head", (x,), outputs, weight), LOGITS)

    def keep(self, x: Value, name: str) -> Value:
        _require(name not in self._outputs, "keep", None, f"{name!r} is kept already")
        self._outputs[name] = x.node
        return x

    def _value(
        self,
        op: str,
        inputs: Sequence[Value],
        width: int,
        detail: Any = None,
        *,
        sampled: bool | None = None,
    ) -> Value:
        rows = {value.node.sampled for value in inputs}
        _require(len(rows) < 2, op, detail, "some inputs are the step's rows, others the sample's")
        chosen = rows.pop() if sampled is None else sampled
        node = Node(op, tuple(value.node for value in inputs), width, chosen, detail)
        self._nodes.append(node)
        return Value(self, node)


def record(forward: Callable[[Ops, Batch], Any]) -> Graph:
    """The graph of a model's forward."""
    recorder = Recorder()
    forward(recorder, Batch(ids=None, positions=None, sampled=None, cache=None))
    return recorder.graph()


def _require(holds: bool, op: str, detail: Any, problem: str) -> None:
    if not holds:
        raise UnsupportedModel(f"{label_of(op, detail)}: {problem}")


def _same(op: str, x: Value, y: Value) -> None:
    problem = f"{x.node.width} features and {y.node.width}"
    _require(x.node.width == y.node.width, op, None, problem)
