"""Each operation on PyTorch tensors, and the walk over a graph that computes them eagerly.

Everything is differentiable, in whatever float type the weights have. Shapes: T rows of a step, S of its
sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sampan.kernels.graph import Graph, Node
from sampan.kernels.ops import Attention, Linear, Norm, Rope, Weight

Attend = Callable[[Attention, Tensor, Tensor, Tensor], Tensor]
LowRanks = Mapping[str, tuple[Tensor, Tensor]]
"""A [rank, inputs] and B [outputs, rank] by the weight's name."""


@dataclass(frozen=True)
class Step:
    """One step's inputs. `ids`, `positions` [T]; `sampled` [S]: indices of rows.

    `attend` appends keys and values to its cache and looks at all of them: q [T, heads, key size], k [T, KV
    heads, key size] and v to [T, heads, value size]. `adapters`: rows [T] (bool) of each adapter."""

    ids: Tensor
    positions: Tensor
    sampled: Tensor
    attend: Attend
    adapters: Sequence[tuple[Tensor, LowRanks]] = ()


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

    def embed(self, node: Node) -> Tensor:
        table: Weight = node.detail
        return functional.embedding(self._step.ids, self._weights[table.name])

    def norm(self, node: Node, x: Tensor) -> Tensor:
        norm: Norm = node.detail
        runs = by_head(x, norm.weight.shape[0])
        inverse = torch.rsqrt(runs.float().square().mean(-1, keepdim=True) + norm.eps).to(x.dtype)
        normed: Tensor = runs * inverse * self._weights[norm.weight.name]
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
        return rotated(x, self._step.positions, rope)

    def attend(self, node: Node, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape: Attention = node.detail
        q, k, v = by_head(q, shape.key_size), by_head(k, shape.key_size), by_head(v, shape.value_size)
        return self._step.attend(shape, q, k, v).flatten(-2)

    def rows(self, _node: Node, x: Tensor) -> Tensor:
        return x[self._step.sampled]

    def _product(self, node: Node, x: Tensor, weight: Weight, bias: Weight | None) -> Tensor:
        y = functional.linear(
            x, self._weights[weight.name], None if bias is None else self._weights[bias.name]
        )
        for rows, low in self._step.adapters:
            if weight.name in low:
                a, b = low[weight.name]
                chosen = rows[self._step.sampled] if node.sampled else rows
                y = y + torch.where(chosen[:, None], functional.linear(functional.linear(x, a), b), 0)
        return y


def by_head(x: Tensor, size: int) -> Tensor:
    """[T, heads * size] -> [T, heads, size]."""
    return x.reshape(len(x), x.shape[-1] // size, size)


def rotated(x: Tensor, positions: Tensor, rope: Rope) -> Tensor:
    """`x` [T, heads * head size], each head turned by its row's position."""
    heads = by_head(x, rope.head_size)
    inv_freq = torch.tensor(rope.inv_freq, dtype=torch.float64)
    angles = positions.cpu().double()[:, None] * inv_freq
    cos, sin = ((f(angles) * rope.scale).to(x.device, x.dtype)[:, None] for f in (torch.cos, torch.sin))
    end = rope.first + rope.size
    turned = heads[..., rope.first : end]
    if rope.form == "half":
        low, high = turned.chunk(2, -1)
        done = torch.cat((low * cos - high * sin, high * cos + low * sin), -1)
    else:
        low, high = turned[..., ::2], turned[..., 1::2]
        done = torch.stack((low * cos - high * sin, high * cos + low * sin), -1).flatten(-2)
    return torch.cat((heads[..., : rope.first], done, heads[..., end:]), -1).flatten(-2)


def attention(shape: Attention, q: Tensor, k: Tensor, v: Tensor, allowed: Any) -> Tensor:
    """q [B, n, heads, key size] over k and v [B, m, KV heads, size], where `allowed` [B, n, m]; gives
    [B, n, heads, value size]."""
    group = shape.heads // shape.kv_heads
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    out = functional.scaled_dot_product_attention(q, k, v, allowed[:, None], scale=shape.scale)
    return out.transpose(1, 2)
