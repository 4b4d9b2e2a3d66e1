"""A program of `ops` as nodes, which a backend compiles or runs.

A node is a pure value: [rows, width] floats, where the rows are the step's tokens or its sample. Nodes
stand in the order in which they were recorded (`recorder.py`), so that a node's inputs come before it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sampan.core.errors import UnsupportedModel
from sampan.kernels.ops import (
    Attention,
    Convolution,
    DeltaRule,
    Experts,
    Linear,
    Norm,
    PerHead,
    Rope,
    State,
    Weight,
)  # fmt: skip

LOGITS = "logits"
"""The name of the head's output."""


@dataclass(frozen=True, eq=False)
class Node:
    """A value: `op` of `inputs`, with what else the operation needs in `detail`.

    `detail` by operation: embed: Weight; norm: Norm; linear, head: Linear; scale: float; slice: its first
    feature; rope: Rope; attend: Attention; convolve: Convolution; delta: DeltaRule; per_head: PerHead;
    experts: Experts; otherwise None. A linear of several values is one node, of which these are slices.
    `sampled`: its rows are those of the sample.
    """

    op: str
    inputs: tuple["Node", ...]
    width: int
    sampled: bool
    detail: Any = None

    @property
    def label(self) -> str:
        """What a fault calls it: the operation, and its weight or its layer where it has one."""
        return label_of(self.op, self.detail)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in order, and the outputs among them by name: the logits, and what was kept."""

    nodes: tuple[Node, ...]
    outputs: dict[str, Node]

    def only(self, names: Iterable[str]) -> "Graph":
        """What these outputs need, and nothing else. Raises `UnsupportedModel` for one that there is not."""
        wanted = {}
        for name in names:
            if name not in self.outputs:
                raise UnsupportedModel(f"the model gives no {name!r}: it gives {', '.join(self.outputs)}")
            wanted[name] = self.outputs[name]
        needed = set(wanted.values())
        for node in reversed(self.nodes):
            if node in needed:
                needed.update(node.inputs)
        return Graph(tuple(node for node in self.nodes if node in needed), wanted)

    def of_every_row(self, name: str, called: str) -> "Graph":
        """The same logits, beside which the output `name` of every row of the step is kept, `called` so: the
        sample is taken just before the head."""
        made: dict[Node, Node] = {}
        nodes: list[Node] = []
        for node in self.nodes:
            if node.op == "rows":
                made[node] = made[node.inputs[0]]
                continue
            inputs = tuple(made[source] for source in node.inputs)
            if node.op == "head":
                inputs = (Node("rows", inputs, inputs[0].width, sampled=True),)
                nodes += inputs
            made[node] = Node(node.op, inputs, node.width, node.op == "head", node.detail)
            nodes.append(made[node])
        return Graph(tuple(nodes), {LOGITS: made[self.outputs[LOGITS]], called: made[self.outputs[name]]})

    @property
    def given(self) -> Node | None:
        """What a step is given beside its tokens, if it is."""
        return next((node for node in self.nodes if node.op == "given"), None)

    def weights(self) -> dict[str, Weight]:
        """Every tensor that it reads, by name."""
        return {weight.name: weight for node in self.nodes for weight in _weights(node)}

    def attentions(self) -> tuple[Attention, ...]:
        """Of every layer that has a cache, in the order of their indices there."""
        found = [node.detail for node in self.nodes if node.op == "attend"]
        return tuple(sorted(found, key=lambda shape: shape.layer))

    def states(self) -> tuple[State, ...]:
        """What each sequence carries besides its pages, in the order of first use."""
        return tuple(node.detail for node in self.nodes if node.op in ("convolve", "delta"))

    def ropes(self) -> tuple[Rope, ...]:
        """Each rotation once, in the order of first use."""
        return tuple(dict.fromkeys(node.detail for node in self.nodes if node.op == "rope"))


def _weights(node: Node) -> Iterator[Weight]:
    match node.detail:
        case PerHead(parts=parts):
            yield from parts
        case Experts(router=router, gate_up=gate_up, down=down):
            yield router.weight
            if router.bias is not None:
                yield router.bias
            for linear in (*gate_up, *down):
                yield from linear.parts
        case Linear(parts=parts, biases=biases):
            yield from (*parts, *biases)
        case Norm(weight=weight) | Convolution(weight=weight):
            yield weight
        case DeltaRule(decay=decay, bias=bias):
            yield from (decay, bias)
        case Weight():
            yield node.detail


def label_of(op: str, detail: Any) -> str:
    if isinstance(detail, Linear):
        return f"{op} {', '.join(part.name.removesuffix('.weight') for part in detail.parts)}"
    if isinstance(detail, Norm):
        return f"{op} {detail.weight.name.removesuffix('.weight')}"
    if isinstance(detail, Weight):
        return f"{op} {detail.name.removesuffix('.weight')}"
    if isinstance(detail, PerHead):
        return f"{op} {detail.parts[0].name.removesuffix('.weight')} …"
    if isinstance(detail, Experts):
        return f"{op} of {detail.router.weight.name.removesuffix('.weight')}"
    return f"{op} of layer {detail.layer}" if hasattr(detail, "layer") else op
