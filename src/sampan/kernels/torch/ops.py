"""Each operation on PyTorch tensors, and the walk over a graph that computes them eagerly.

Everything is differentiable, in whatever float type the weights have; means of squares, and softmax, are at
least float32. Shapes: T rows of a step, S of its sample."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sampan.kernels.graph import Graph, Node
from sampan.kernels.ops import Attention, Experts, Linear, Norm, PerHead, Rope, Router, State, Weight
from sampan.kernels.torch import recurrent
from sampan.kernels.torch.heads import low_rank, per_head

Attend = Callable[[Attention, Tensor, Tensor, Tensor], Tensor]
Advance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A state and a sequence's next rows [n, width] to what these give [n, width], and the state behind them."""
Carry = Callable[[State, Tensor, Advance], Tensor]
LowRanks = Mapping[str, tuple[Tensor, Tensor]]
"""A [rank, inputs] and B [outputs, rank] by the weight's name."""


class Adapted(NamedTuple):
    """Who uses an adapter: indices among the step's rows, and among the sample."""

    rows: Tensor
    sampled: Tensor
    products: LowRanks


@dataclass(frozen=True)
class Step:
    """One step's inputs. `ids` [T]; `positions` [T], on the host; `sampled` [S]: indices of rows.

    `attend` appends keys and values to its cache and looks at all of them: q [T, heads, key size], k [T, KV
    heads, key size] and v to [T, heads, value size]. `carry` lets each sequence's state go over its rows of
    [T, width]."""

    ids: Tensor
    positions: Tensor
    sampled: Tensor
    attend: Attend
    carry: Carry
    adapters: Sequence[Adapted] = ()
    given: Tensor | None = None


Watch = Callable[[Node, Tensor], None]


def evaluate(
    graph: Graph, weights: Mapping[str, Tensor], step: Step, watch: Watch | None = None
) -> dict[str, Tensor]:
    """The graph's outputs by name. A value is dropped after its last reader; `watch` sees what norms read."""
    walk = Walk(weights, step)
    last = {source: node for node in graph.nodes for source in node.inputs}
    kept = set(graph.outputs.values())
    values: dict[Node, Tensor] = {}
    for node in graph.nodes:
        inputs = [values[source] for source in node.inputs]
        if watch is not None and node.op == "norm":
            watch(node, inputs[0])
        values[node] = getattr(walk, node.op)(node, *inputs)
        for source in node.inputs:
            if last[source] is node and source not in kept:
                values.pop(source, None)
    return {name: values[node] for name, node in graph.outputs.items()}


class Walk:
    """The operations, by their names in a graph."""

    def __init__(self, weights: Mapping[str, Tensor], step: Step) -> None:
        self._weights = weights
        self._step = step
        self._angles: dict[Rope, tuple[Tensor, Tensor]] = {}

    def embed(self, node: Node) -> Tensor:
        table: Weight = node.detail
        return functional.embedding(self._step.ids, self._weights[table.name])

    def given(self, _node: Node) -> Tensor:
        assert self._step.given is not None
        return self._step.given

    def norm(self, node: Node, x: Tensor) -> Tensor:
        norm: Norm = node.detail
        runs = wide(by_head(x, norm.weight.shape[0]))
        inverse = torch.rsqrt(runs.square().mean(-1, keepdim=True) + norm.eps)
        weight = self._weights[norm.weight.name]
        if norm.weight.offset:
            normed: Tensor = (runs * inverse * (wide(weight) + norm.weight.offset)).to(x.dtype)
        else:
            normed = (runs * inverse).to(x.dtype) * weight
        return normed.flatten(-2)

    def linear(self, node: Node, x: Tensor) -> Tensor:
        weight: Linear = node.detail
        biases: Sequence[Weight | None] = weight.biases or [None] * len(weight.parts)
        parts = [self._product(node, x, part, b) for part, b in zip(weight.parts, biases, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def head(self, node: Node, x: Tensor) -> Tensor:
        weight: Linear = node.detail
        return functional.linear(x, self._weights[weight.parts[0].name])

    def add(self, _node: Node, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def scale(self, node: Node, x: Tensor) -> Tensor:
        factor: float = node.detail
        return x * factor

    def gate(self, _node: Node, x: Tensor, gate: Tensor) -> Tensor:
        return x * torch.sigmoid(gate)

    def swiglu(self, _node: Node, gate: Tensor, up: Tensor) -> Tensor:
        return functional.silu(gate) * up

    def slice(self, node: Node, x: Tensor) -> Tensor:
        return x[:, node.detail : node.detail + node.width]

    def concat(self, _node: Node, *parts: Tensor) -> Tensor:
        return torch.cat(parts, -1)

    def rope(self, node: Node, x: Tensor) -> Tensor:
        rope: Rope = node.detail
        if rope not in self._angles:  # the same in every layer
            self._angles[rope] = angles(self._step.positions, rope, x)
        return rotated(x, *self._angles[rope], rope)

    def attend(self, node: Node, q: Tensor, k: Tensor, v: Tensor | None = None) -> Tensor:
        shape: Attention = node.detail
        q, k = by_head(q, shape.key_size), by_head(k, shape.key_size)
        values = k[..., : shape.value_size] if v is None else by_head(v, shape.value_size)
        return self._step.attend(shape, q, k, values).flatten(-2)

    def convolve(self, node: Node, x: Tensor) -> Tensor:
        weight = self._weights[node.detail.weight.name]
        return self._step.carry(node.detail, x, partial(recurrent.convolved, wide(weight)))

    def delta(self, node: Node, x: Tensor, b: Tensor, a: Tensor) -> Tensor:
        decay, bias = (wide(self._weights[each.name]) for each in (node.detail.decay, node.detail.bias))
        rule = partial(recurrent.delta_rule, node.detail, decay, bias)
        return self._step.carry(node.detail, torch.cat((x, b, a), -1), rule)

    def per_head(self, node: Node, x: Tensor) -> Tensor:
        weight: PerHead = node.detail
        heads, inputs = by_head(x, weight.head_size), weight.sizes[0]
        done = per_head(heads[..., :inputs], weight, self._weights)
        for rows, sampled, products in self._step.adapters:
            if weight.parts[0].name in products:
                chosen = sampled if node.sampled else rows
                done = done.index_add(0, chosen, low_rank(heads[chosen, :, :inputs], weight, products))
        return torch.cat((done, heads[..., inputs:]), -1).flatten(-2)

    def experts(self, node: Node, x: Tensor) -> Tensor:
        experts: Experts = node.detail
        weights, chosen = routed(x, experts.router, self._weights)
        done = torch.zeros_like(x)
        for expert in sorted(set(chosen.flatten().tolist())):  # in this order each row's sum is made
            rows, places = (chosen == expert).nonzero(as_tuple=True)
            gate, up = (self._part(node, x[rows], part, rows) for part in experts.gate_up[expert].parts)
            inner = functional.silu(gate) * up
            y = self._part(node, inner, experts.down[expert].parts[0], rows)
            done = done.index_add(0, rows, (y * weights[rows, places, None]).to(x.dtype))
        return done

    def rows(self, _node: Node, x: Tensor) -> Tensor:
        return x[self._step.sampled]

    def _product(self, node: Node, x: Tensor, weight: Weight, bias: Weight | None) -> Tensor:
        added = None if bias is None else self._weights[bias.name]
        y = functional.linear(x, self._weights[weight.name], added)
        for rows, sampled, products in self._step.adapters:
            if weight.name in products:
                a, b = products[weight.name]
                chosen = sampled if node.sampled else rows
                low = functional.linear(functional.linear(x[chosen], a), b)
                y = y.index_add(0, chosen, low)
        return y

    def _part(self, node: Node, x: Tensor, weight: Weight, rows: Tensor) -> Tensor:
        """A product of some of the rows alone."""
        y = functional.linear(x, self._weights[weight.name])
        for all_rows, sampled, products in self._step.adapters:
            if weight.name in products:
                a, b = products[weight.name]
                own = torch.isin(rows, sampled if node.sampled else all_rows)
                y = y + own[:, None] * functional.linear(functional.linear(x, a), b)
        return y


def routed(x: Tensor, router: Router, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weights and numbers of each row's experts, both [T, chosen]."""
    products = functional.linear(wide(x), wide(weights[router.weight.name]))
    scores = products.sigmoid() if router.scores == "sigmoid" else products.softmax(-1)
    choice = scores if router.bias is None else scores + wide(weights[router.bias.name])
    if router.groups > 1:
        grouped = choice.reshape(len(x), router.groups, -1)
        best = grouped.topk(router.group_top, -1).values.sum(-1).topk(router.groups_kept, -1).indices
        kept = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, True)
        choice = grouped.masked_fill(~kept[..., None], -torch.inf).flatten(-2)
    chosen = choice.topk(router.chosen, -1).indices
    own = scores.gather(-1, chosen)
    if router.normalised:
        own = own / (own.sum(-1, keepdim=True) + (1e-20 if router.scores == "sigmoid" else 0.0))
    return own * router.scale, chosen


OPERATIONS = frozenset(name for name in vars(Walk) if not name.startswith("_"))


def wide(x: Tensor) -> Tensor:
    """In a type of 32 bits at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def by_head(x: Tensor, size: int) -> Tensor:
    """[T, heads * size] -> [T, heads, size]."""
    return x.reshape(len(x), x.shape[-1] // size, size)


def angles(positions: Tensor, rope: Rope, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, 1, pairs] of the type and on the device of `like`; from float64, which some
    devices lack, on the host."""
    turns = positions.double()[:, None] * torch.tensor(rope.inv_freq, dtype=torch.float64)
    cos, sin = ((f(turns) * rope.scale).to(like.device, like.dtype)[:, None] for f in (torch.cos, torch.sin))
    return cos, sin


def rotated(x: Tensor, cos: Tensor, sin: Tensor, rope: Rope) -> Tensor:
    """`x` [T, heads * head size], each head turned by its row's angles."""
    heads = by_head(x, rope.head_size)
    end = rope.first + rope.size
    turned = heads[..., rope.first : end]
    if rope.form == "half":
        low, high = turned.chunk(2, -1)
        done = torch.cat((low * cos - high * sin, high * cos + low * sin), -1)
    else:
        low, high = turned[..., ::2], turned[..., 1::2]
        done = torch.stack((low * cos - high * sin, high * cos + low * sin), -1).flatten(-2)
    return torch.cat((heads[..., : rope.first], done, heads[..., end:]), -1).flatten(-2)


class Block(NamedTuple):
    """Neighbouring tokens that queries look at: k [B, m, KV heads, key size], v, and where a query may look,
    `allowed` [B, n, m]."""

    k: Tensor
    v: Tensor
    allowed: Tensor


class Seen(NamedTuple):
    """What queries saw in some blocks: the largest score and the sum of exponentials beside it, both [B, KV
    heads, rows, 1], and the sum of values by these weights."""

    top: Tensor
    total: Tensor
    out: Tensor


def attention(shape: Attention, q: Tensor, blocks: Iterable[Block]) -> Tensor:
    """q [B, n, heads, key size] to [B, n, heads, value size]; every query may look at one key at least.

    One softmax over all blocks, merged as they come (arXiv:2205.14135): one of them is there at once."""
    batch, n, kv = len(q), q.shape[1], shape.kv_heads
    group = shape.heads // kv
    rows = q.reshape(batch, n, kv, group, shape.key_size).permute(0, 2, 3, 1, 4).flatten(2, 3)
    seen = reduce(_merged, map(partial(_seen, shape, rows), blocks))
    done = (seen.out / seen.total).to(q.dtype).reshape(batch, kv, group, n, shape.value_size)
    return done.permute(0, 3, 1, 2, 4).reshape(batch, n, shape.heads, shape.value_size)


def _seen(shape: Attention, rows: Tensor, block: Block) -> Seen:
    """`rows` [B, KV heads, group * n, key size]: queries that share a KV head."""
    k, v, allowed = block
    batch, queries, tokens = allowed.shape
    scores = wide(rows @ k.permute(0, 2, 3, 1)) * shape.scale
    by_query = scores.reshape(batch, shape.kv_heads, -1, queries, tokens)
    scores = by_query.masked_fill(~allowed[:, None, None], -torch.inf).flatten(2, 3)
    least = torch.finfo(scores.dtype).min  # of a query that sees nothing here
    top = scores.detach().amax(-1, keepdim=True).clamp(min=least)
    weights = (scores - top).exp()
    return Seen(top, weights.sum(-1, keepdim=True), wide(weights.to(v.dtype) @ v.transpose(1, 2)))


def _merged(one: Seen, other: Seen) -> Seen:
    top = torch.maximum(one.top, other.top)
    a, b = (one.top - top).exp(), (other.top - top).exp()
    return Seen(top, one.total * a + other.total * b, one.out * a + other.out * b)
