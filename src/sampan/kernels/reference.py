"""The plain PyTorch backend of `Ops`: the oracle of the native kernels, and the way to gradients.

The unchanged model files run eagerly and with autograd, in whatever float type the weights have. Nothing is
fused, quantised or paged. Importing this module imports torch, which the base install does not have.
Shapes: T rows of a step, of which n belong to one sequence that has m tokens with them; D head size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from sampan.kernels.ops import Attention, Batch, Linear, Norm, Weight


@dataclass(eq=False)
class History:
    """One sequence's keys and values so far: for each layer, both [m, kv_heads, D]."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens that went through the model."""
        return len(self.layers[0][0]) if self.layers else 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds n tokens; gives all m."""
        if layer in self.layers:
            past_k, past_v = self.layers[layer]
            k, v = torch.cat((past_k, k)), torch.cat((past_v, v))
        self.layers[layer] = k, v
        return k, v


@dataclass(frozen=True)
class Span:
    """`count` rows of a step from row `first`, which continue one sequence."""

    history: History
    first: int
    count: int


def batch(work: Sequence[tuple[History, Sequence[int]]], *, sample_all: bool = False) -> Batch:
    """A step that gives each sequence some more tokens; samples the last row of each, or every row."""
    spans: list[Span] = []
    ids: list[int] = []
    positions: list[int] = []
    for history, tokens in work:
        spans.append(Span(history, len(ids), len(tokens)))
        ids.extend(tokens)
        positions.extend(range(history.tokens, history.tokens + len(tokens)))
    sampled = range(len(ids)) if sample_all else [span.first + span.count - 1 for span in spans]
    return Batch(torch.tensor(ids), torch.tensor(positions), torch.tensor(sampled), spans)


class TorchOps:
    """`weights`: tensors by Hugging Face's names. `inv_freq` and `rope_scale` as in `ModelConfig.rope`."""

    def __init__(self, weights: Mapping[str, Tensor], inv_freq: Sequence[float], rope_scale: float) -> None:
        self.weights = weights
        self.inv_freq = torch.tensor(inv_freq, dtype=torch.float64)
        self.rope_scale = rope_scale

    def embed(self, table: Weight, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.weights[table.name])

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps)
        return x * inverse * self.weights[norm.weight.name]

    def head_norm(self, x: Tensor, norm: Norm) -> Tensor:
        return self.norm(_heads(x, norm.weight.shape[0]), norm).flatten(-2)

    def linear(self, x: Tensor, weight: Linear) -> Tensor | tuple[Tensor, ...]:
        biases = weight.biases or (None,) * len(weight.parts)
        out = tuple(self._product(x, *pair) for pair in zip(weight.parts, biases, strict=True))
        return out if len(out) > 1 else out[0]

    def rope(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.double()[:, None] * self.inv_freq
        cos, sin = ((f(angles) * self.rope_scale).to(q.dtype)[:, None] for f in (torch.cos, torch.sin))
        return self._rotated(q, cos, sin), self._rotated(k, cos, sin)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, cache: Sequence[Span], shape: Attention) -> Tensor:
        q, k, v = (_heads(x, shape.head_dim) for x in (q, k, v))
        outputs = []
        for span in cache:
            rows = slice(span.first, span.first + span.count)
            outputs.append(_attention(q[rows], *span.history.append(shape.layer, k[rows], v[rows])))
        return torch.cat(outputs).flatten(-2)

    def swiglu(self, gate_up: tuple[Tensor, Tensor]) -> Tensor:
        gate, up = gate_up
        return functional.silu(gate) * up

    def rows(self, x: Tensor, index: Tensor) -> Tensor:
        return x[index]

    def head(self, x: Tensor, weight: Linear) -> Tensor:
        return self._product(x, weight.parts[0], None)

    def _product(self, x: Tensor, weight: Weight, bias: Weight | None) -> Tensor:
        added = None if bias is None else self.weights[bias.name]
        return functional.linear(x, self.weights[weight.name], added)

    def _rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x` [T, heads * D] with its heads' halves rotated by `cos` and `sin` [T, 1, D / 2]."""
        low, high = _heads(x, 2 * len(self.inv_freq)).chunk(2, dim=-1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).flatten(-2)


def _heads(x: Tensor, head_dim: int) -> Tensor:
    """[T, heads * D] -> [T, heads, D]."""
    return x.reshape(len(x), -1, head_dim)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The last n of m tokens look back: q [n, heads, D], k and v [m, kv_heads, D] -> [n, heads, D]."""
    n, m, group = len(q), len(k), q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = torch.einsum("nhd,mhd->hnm", q, k) * q.shape[-1] ** -0.5
    later = torch.ones(n, m, dtype=torch.bool).triu(m - n + 1)
    return torch.einsum("hnm,mhd->nhd", scores.masked_fill(later, -torch.inf).softmax(-1), v)
