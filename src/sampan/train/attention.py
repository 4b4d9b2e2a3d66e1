"""Causal attention in the backward pass, where the continuations of a prompt see the prompt and themselves.

Products of whole batches with their softmax between: for some hundred keys PyTorch differentiates these in
half the time of its fused attention, which computes the scores a second time.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sampan.kernels.ops import Attention
from sampan.train.batch import Batch, Places

Attend = Callable[[Attention, Tensor, Tensor, Tensor], Tensor]


def attention_of(batch: Batch) -> Attend:
    """Of a batch's rows: q [T, heads, key size], k [T, KV heads, key size], v to [T, heads, value size]."""
    groups = [_Group(place) for place in batch.places]

    def attend(shape: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat([out for group in groups for out in group.attend(shape, q, k, v)])

    return attend


class _Group:
    """Where rows of a group may look."""

    def __init__(self, place: Places) -> None:
        self._prompt, self._continuations = place.prompt, place.continuations
        prompt = self._prompt.stop - self._prompt.start
        longest = max(map(len, self._continuations))
        self._before = _hidden(prompt)
        self._after = torch.cat((torch.zeros(longest, prompt), _hidden(longest)), 1)
        self._index = torch.zeros(len(self._continuations), longest, dtype=torch.long)
        for i, rows in enumerate(self._continuations):
            self._index[i, : len(rows)] = torch.arange(rows.start, rows.stop)

    def attend(self, shape: Attention, q: Tensor, k: Tensor, v: Tensor) -> Sequence[Tensor]:
        asked, *seen = (each[None, self._prompt].transpose(1, 2) for each in (q, k, v))
        found = [_attended(shape, asked, seen[0], seen[1], self._before)[0]]
        if not self._index.numel():
            return found
        own = [each[self._index].transpose(1, 2) for each in (q, k, v)]
        keys, values = (
            torch.cat((before.expand(len(self._index), -1, -1, -1), after), 2)
            for before, after in zip(seen, own[1:], strict=True)
        )
        out = _attended(shape, own[0], keys, values, self._after)
        return [*found, *(out[i, : len(rows)] for i, rows in enumerate(self._continuations))]


def _hidden(count: int) -> Tensor:
    """What is added to scores [count, count], so that no row looks behind itself."""
    return torch.full((count, count), -torch.inf).triu(1)


def _attended(shape: Attention, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    """q [B, heads, n, key size], k [B, KV heads, m, key size], v, `hidden` [n, m] to [B, n, heads, value
    size]."""
    batch, heads, n, _ = q.shape
    shared = heads // shape.kv_heads
    asked = q.reshape(batch * shape.kv_heads, shared * n, -1)  # queries of one KV head together
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    scores = torch.baddbmm(hidden.to(q.dtype).repeat(shared, 1), asked, k.transpose(1, 2), alpha=shape.scale)
    out = scores.softmax(-1) @ v
    return out.reshape(batch, heads, n, -1).transpose(1, 2)
