"""Gradients of what the native kernels computed: the graph walked by PyTorch, over dequantised weights.

Products are not computed a second time: what a linear gave comes from the kernels, and rounding passes
gradients straight through. What stands between products (norms, rotations, attention, SwiGLU) is computed
again, from these values.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sampan.core.errors import UnsupportedModel
from sampan.kernels.graph import Node
from sampan.kernels.ops import Attention, Linear, State
from sampan.kernels.torch.ops import Advance, Step, Walk
from sampan.train.batch import Batch, Padding, Places
from sampan.train.head import Judged, TargetLogprobs
from sampan.train.lora import LowRank
from sampan.train.trace import Trace

Kept = Callable[[Node], Tensor]


class LearntProduct(Function):
    """y = W x + bias, known already (`None`: in a sum to come), with gradients of W and the bias. `weight`: W
    as products read it; `_master`: W as the optimizer has it, `None` where it stays."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, _master: Tensor | None, _bias: Tensor | None, value: Any
    ) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[2] else None, weight)
        ctx.dtype = x.dtype
        return x.new_empty(1).expand(len(x), len(weight)) if value is None else value()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        to_x, _, to_master, to_bias, _ = ctx.needs_input_grad
        return (
            (gradient.to(weight.dtype) @ weight).to(ctx.dtype) if to_x else None,
            None,
            gradient.T @ x if to_master else None,
            gradient.sum(0) if to_bias else None,
            None,
        )


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
        learnt: Mapping[str, Tensor],
    ) -> None:
        super().__init__(weights, step)
        self._trace, self._parts, self._kept, self._learnt = trace, parts, kept, learnt

    def embed(self, node: Node) -> Tensor:
        table = self._learnt.get(node.detail.name)
        return super().embed(node) if table is None else functional.embedding(self._step.ids, table)

    def linear(self, node: Node, x: Tensor) -> Any:
        """Each part's rows: a slice of it takes its own."""
        linear: Linear = node.detail
        own = self._value(node) if node in self._trace.names else None
        if len(linear.parts) == 1:
            return self._product_of(linear, 0, x, own)
        return x

    def slice(self, node: Node, x: Tensor) -> Tensor:
        source = node.inputs[0]
        if source.op != "linear" or node not in self._trace.names:
            return super().slice(node, x)
        start = 0
        found = []
        for place, part in enumerate(source.detail.parts):
            if node.detail <= start < node.detail + node.width:
                found.append(place)
            start += part.shape[0]
        (own,) = found
        return self._product_of(source.detail, own, x, self._value(node))

    def add(self, node: Node, x: Tensor, y: Tensor) -> Tensor:
        if node not in self._trace.names:
            return x + y
        return Sum.apply(x, y, self._value(node))  # type: ignore[no-any-return, no-untyped-call]

    def _value(self, node: Node) -> Callable[[], Tensor]:
        return lambda: self._kept(node)

    def _product_of(
        self, linear: Linear, place: int, x: Tensor, value: Callable[[], Tensor] | None
    ) -> Tensor:
        """Of one part of a linear."""
        name = linear.parts[place].name
        master = self._learnt.get(name)
        bias = self._learnt.get(linear.biases[place].name) if linear.biases else None
        if master is not None or bias is not None:
            return LearntProduct.apply(x, self._weights[name], master, bias, value)  # type: ignore[no-any-return, no-untyped-call]
        part = self._parts.get(name)
        own = (None, None, 1.0) if part is None else (part.matrix_a, part.matrix_b, part.scale)
        return Product.apply(x, self._weights[name], *own, value)  # type: ignore[no-any-return, no-untyped-call]


class Padded(Function):
    """Rows [R, …] of continuations at their places among [continuations * longest, …], and at places behind
    their ends any row, of which no gradient comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: Padding) -> Tensor:
        ctx.padding = padding
        return x.index_select(0, padding.rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.index_select(0, ctx.padding.places), None


class Unpadded(Function):
    """The rows again, without what stands behind their ends."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: Padding) -> Tensor:
        ctx.padding, ctx.shape = padding, x.shape
        return x.index_select(0, padding.places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.new_zeros(ctx.shape).index_copy_(0, ctx.padding.places, gradient), None


def attention_of(batch: Batch) -> Callable[[Attention, Tensor, Tensor, Tensor], Tensor]:
    """Causal attention where the continuations of a prompt see the prompt and themselves. It is computed
    again in the backward pass: kept are queries, keys and values of each row once, and not what each
    continuation sees of its prompt."""
    sizes = [place.stop - place.first for place in batch.places]

    def attend(shape: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = zip(batch.places, *(torch.split_with_sizes(each, sizes) for each in (q, k, v)), strict=True)
        parts = (
            checkpoint(_group, place, shape, *own, use_reentrant=False, preserve_rng_state=False)
            for place, *own in groups
        )
        return torch.cat([out for part in parts for out in part])

    return attend


def _group(place: Places, shape: Attention, q: Tensor, k: Tensor, v: Tensor) -> Sequence[Tensor]:
    """Of a group's own rows."""
    prompt = len(place.group.prompt)
    halves = [torch.split_with_sizes(each, [prompt, len(each) - prompt]) for each in (q, k, v)]
    asked, *seen = (each[0].transpose(0, 1)[None] for each in halves)
    gqa = shape.heads != shape.kv_heads
    first = functional.scaled_dot_product_attention(
        asked, seen[0], seen[1], is_causal=True, scale=shape.scale, enable_gqa=gqa
    )
    found = [first[0].transpose(0, 1)]
    padding = place.padding
    if not padding.longest:
        return found
    many = len(place.continuations)
    own = [
        Padded.apply(each[1], padding).unflatten(0, (many, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
        for each in halves
    ]
    keys, values = (
        torch.cat((before.expand(many, -1, -1, -1), after), 2)
        for before, after in zip(seen, own[1:], strict=True)
    )
    out = functional.scaled_dot_product_attention(
        own[0], keys, values, attn_mask=padding.allowed, scale=shape.scale, enable_gqa=gqa
    ).transpose(1, 2)
    return [*found, Unpadded.apply(out.flatten(0, 1), padding)]  # type: ignore[no-untyped-call]


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
    learnt: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets as a function of an adapter's parts, and of the weights `learnt`,
    float32 by name (those among `weights` that are vectors are the same tensors there); and entropies beside
    them."""
    learnt = learnt or {}
    walk = TracedWalk(trace, weights, step_of_batch(batch), parts, kept, learnt)
    last = {source: node for node in trace.graph.nodes for source in node.inputs}
    values: dict[Node, Any] = {}
    for node in trace.graph.nodes:
        inputs = [values[source] for source in node.inputs]
        if node.op == "head":
            name = node.detail.parts[0].name
            return TargetLogprobs.apply(inputs[0], weights[name], judged, learnt.get(name))  # type: ignore[no-any-return, no-untyped-call]
        values[node] = getattr(walk, node.op)(node, *inputs)
        for source in node.inputs:
            if last[source] is node:
                values.pop(source, None)
    raise AssertionError("a graph without a head")
