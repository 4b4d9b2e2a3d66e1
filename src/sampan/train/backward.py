"""Gradients of what the native kernels computed: the graph walked by PyTorch, over dequantised weights.

Products are not computed a second time: what a linear gave comes from the kernels, and rounding passes
gradients straight through. What stands between products (norms, rotations, attention, SwiGLU) is computed
again, from these values.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sampan.core.errors import UnsupportedModel
from sampan.kernels.graph import Node
from sampan.kernels.ops import Linear, State
from sampan.kernels.torch.ops import Advance, Step, Walk
from sampan.train.attention import attention_of
from sampan.train.batch import Batch
from sampan.train.head import Judged, TargetLogprobs
from sampan.train.lora import LowRank
from sampan.train.trace import Trace

Kept = Callable[[Node], Tensor]


class Product(Function):
    """y = W x + scale * B (A x) of one weight, whose values are known already (`None`: they are in a sum
    to come)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, a: Tensor | None, b: Tensor | None, scale: float, value: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return x.new_empty(1).expand(len(x), len(weight)) if value is None else value()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, a, b = ctx.saved_tensors
        back = gradient.to(weight.dtype) @ weight
        if a is None:
            return back.to(x.dtype), None, None, None, None, None
        inner = gradient @ b * ctx.scale
        to_a, to_b = inner.T @ x, gradient.T @ (x @ a.T) * ctx.scale
        return torch.addmm(back.to(x.dtype), inner, a), None, to_a, to_b, None, None


class Sum(Function):
    """x + y, known already."""

    @staticmethod
    def forward(_ctx: Any, _x: Tensor, _y: Tensor, value: Callable[[], Tensor]) -> Tensor:
        return value()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Any:
        return gradient, gradient, None


class TracedWalk(Walk):
    """The operations of a trace, by their names in a graph. `kept`: values of the backward pass's rows by
    name."""

    def __init__(
        self,
        trace: Trace,
        weights: Mapping[str, Tensor],
        step: Step,
        parts: Mapping[str, LowRank],
        kept: Kept,
    ) -> None:
        super().__init__(weights, step)
        self._trace, self._parts, self._kept = trace, parts, kept

    def linear(self, node: Node, x: Tensor) -> Any:
        """Each part's rows: a slice of it takes its own."""
        linear: Linear = node.detail
        own = self._value(node) if node in self._trace.names else None
        if len(linear.parts) == 1:
            return self._adapted(linear.parts[0].name, x, own)
        return x

    def slice(self, node: Node, x: Tensor) -> Tensor:
        source = node.inputs[0]
        if source.op != "linear" or node not in self._trace.names:
            return super().slice(node, x)
        start = 0
        found = []
        for part in source.detail.parts:
            if node.detail <= start < node.detail + node.width:
                found.append(part.name)
            start += part.shape[0]
        (name,) = found
        return self._adapted(name, x, self._value(node))

    def add(self, node: Node, x: Tensor, y: Tensor) -> Tensor:
        if node not in self._trace.names:
            return x + y
        return Sum.apply(x, y, self._value(node))  # type: ignore[no-any-return, no-untyped-call]

    def _value(self, node: Node) -> Callable[[], Tensor]:
        return lambda: self._kept(node)

    def _adapted(self, name: str, x: Tensor, value: Callable[[], Tensor] | None) -> Tensor:
        part = self._parts.get(name)
        own = (None, None, 1.0) if part is None else (part.matrix_a, part.matrix_b, part.scale)
        return Product.apply(x, self._weights[name], *own, value)  # type: ignore[no-any-return, no-untyped-call]


def step_of_batch(batch: Batch) -> Step:
    """The rows of the backward pass. Models that carry a state have no place here yet."""
    index = torch.tensor(batch.sampled)
    return Step(torch.tensor(batch.ids), torch.tensor(batch.positions), index, attention_of(batch), _carry)


def _carry(state: State, _rows: Tensor, _advance: Advance) -> Tensor:
    raise UnsupportedModel(f"training of models that carry a state ({type(state).__name__}) is not supported")


def logprobs_of(
    trace: Trace,
    weights: Mapping[str, Tensor],
    batch: Batch,
    parts: Mapping[str, LowRank],
    kept: Kept,
    judged: Judged,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets as a function of the adapter's parts, and entropies beside them."""
    walk = TracedWalk(trace, weights, step_of_batch(batch), parts, kept)
    last = {source: node for node in trace.graph.nodes for source in node.inputs}
    values: dict[Node, Any] = {}
    for node in trace.graph.nodes:
        inputs = [values[source] for source in node.inputs]
        if node.op == "head":
            name = node.detail.parts[0].name
            return TargetLogprobs.apply(inputs[0], weights[name], judged)  # type: ignore[no-any-return, no-untyped-call]
        values[node] = getattr(walk, node.op)(node, *inputs)
        for source in node.inputs:
            if last[source] is node:
                values.pop(source, None)
    raise AssertionError("a graph without a head")
