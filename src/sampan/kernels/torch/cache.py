"""The paged cache on a device, and one step's attention over it.

Sequences with one row in a step look back together, those of about one length at a time; the others each by
itself. Pages are read some at a time, so that the memory of a step does not grow with its contexts.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sampan.kernels.backend import PAGE, Span
from sampan.kernels.ops import Attention
from sampan.kernels.torch.ops import Block, attention

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
GROUP = 64
"""Sequences that look back together."""

Indices = NDArray[np.int64]


class PagedCache:
    """Keys and values of every layer, [pages, PAGE, KV heads, size] each. `most`: see `at_once`."""

    def __init__(self, shapes: Sequence[Attention], pages: int, dtype: str, device: torch.device) -> None:
        def zeros(shape: Attention, size: int) -> Tensor:
            return torch.zeros(pages, PAGE, shape.kv_heads, size, dtype=DTYPES[dtype], device=device)

        self.pages, self.most = pages, at_once(device)
        self._device = device
        self._keys = {shape.layer: zeros(shape, shape.key_size) for shape in shapes}
        own = [shape for shape in shapes if not shape.latent]
        self._values = {shape.layer: zeros(shape, shape.value_size) for shape in own}

    def step(self, spans: Sequence[Span]) -> "PagedStep":
        """What these spans read and write."""
        return PagedStep(self, spans)

    def tensors(self, shape: Attention) -> tuple[Tensor, Tensor]:
        """Of its layer; values that are kept in the keys are a view of these."""
        keys = self._keys[shape.layer]
        return keys, keys[..., : shape.value_size] if shape.latent else self._values[shape.layer]

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """The second page of each pair becomes what the first is."""
        if pairs:
            before, after = (self.index(pages) for pages in zip(*pairs, strict=True))
            for tensor in (*self._keys.values(), *self._values.values()):
                tensor[after] = tensor[before]

    def index(self, values: Sequence[int] | Indices) -> Tensor:
        """Whole numbers on the device."""
        return torch.from_numpy(np.asarray(values, np.int64)).to(self._device)


class _Group(NamedTuple):
    """Sequences of n rows each: which rows of the step [B, n], their pages [B, P], and how many tokens each
    row sees [B, n]."""

    rows: Tensor
    pages: Tensor
    lengths: Tensor


class _Work(NamedTuple):
    """A span in numbers: its rows, its pages, and how many tokens each row sees."""

    rows: Indices
    pages: Indices
    lengths: Indices


class PagedStep:
    """Where the tokens of a step lie, and their attention."""

    def __init__(self, cache: PagedCache, spans: Sequence[Span]) -> None:
        self._cache = cache
        work = list(_work(spans))
        places = np.concatenate([each.lengths - 1 for each in work])
        pages = np.concatenate([each.pages[(each.lengths - 1) // PAGE] for each in work])
        self._slots = cache.index(pages * PAGE + places % PAGE)
        self._begun = cache.index(pages[places % PAGE == 0])
        self._groups = [self._group(some) for some in _groups(work)]

    def attend(self, shape: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Appends k and v, then attends: see `Step`."""
        keys, values = self._cache.tensors(shape)
        if len(self._begun):  # what lies behind a sequence's end has no weight, but no number may be NaN
            values[self._begun] = 0
        keys.flatten(0, 1)[self._slots] = k.to(keys.dtype)
        if not shape.latent:
            values.flatten(0, 1)[self._slots] = v.to(values.dtype)
        out = q.new_empty(len(q), shape.heads, shape.value_size)
        for group in self._groups:
            each = pages_at_once(shape, len(group.pages), group.rows.numel(), self._cache.most)
            blocks = _blocks(keys, values, group, each, q.dtype)
            out[group.rows] = attention(shape, q[group.rows], blocks)
        return out

    def _group(self, work: Sequence[_Work]) -> _Group:
        most = max(len(each.pages) for each in work)
        # Padded by pages of its own: what they hold cannot harm another sequence.
        padded = [np.pad(each.pages, (0, most - len(each.pages)), mode="edge") for each in work]
        parts = ([each.rows for each in work], padded, [each.lengths for each in work])
        return _Group(*(self._cache.index(np.stack(part)) for part in parts))


def at_once(device: torch.device) -> int:
    """The most scores, and the most numbers of keys and values, that are there at once: what a processor's
    caches hold (measured), or enough for few launches (not measured)."""
    return 2**20 if device.type == "cpu" else 2**24


def numbers_of_a_page(shape: Attention, sequences: int, rows: int) -> tuple[int, int]:
    """Keys and values, and scores, of one page of each of these sequences with so many rows together."""
    gathered = sequences * PAGE * shape.cached
    return gathered, rows * PAGE * shape.heads


def pages_at_once(shape: Attention, sequences: int, rows: int, most: int) -> int:
    """Of each of these sequences."""
    return max(1, most // max(numbers_of_a_page(shape, sequences, rows)))


def _work(spans: Sequence[Span]) -> Iterator[_Work]:
    first = 0
    for span in spans:
        count, length = len(span.ids), span.before + len(span.ids)
        pages = np.frombuffer(span.pages, np.int32)[: -(-length // PAGE)].astype(np.int64)
        yield _Work(np.arange(first, first + count), pages, np.arange(span.before + 1, length + 1))
        first += count


def _groups(work: Sequence[_Work]) -> Iterator[list[_Work]]:
    """Single rows together, where none has less than half of the pages of the longest; the others alone."""
    yield from ([each] for each in work if len(each.rows) > 1)
    group: list[_Work] = []
    for each in sorted((each for each in work if len(each.rows) == 1), key=lambda each: -len(each.pages)):
        if group and (len(group) == GROUP or 2 * len(each.pages) < len(group[0].pages)):
            yield group
            group = []
        group.append(each)
    if group:
        yield group


def _blocks(keys: Tensor, values: Tensor, group: _Group, each: int, dtype: torch.dtype) -> Iterator[Block]:
    """The group's pages, `each` of a sequence at a time."""
    for start in range(0, group.pages.shape[1], each):
        some = group.pages[:, start : start + each]
        places = torch.arange(start * PAGE, (start + some.shape[1]) * PAGE, device=some.device)
        k, v = (_read(tensor, some).to(dtype) for tensor in (keys, values))
        yield Block(k, v, places < group.lengths[:, :, None])


def _read(tensor: Tensor, pages: Tensor) -> Tensor:
    """[B, tokens, KV heads, size] of pages [B, P]."""
    found = tensor.index_select(0, pages.flatten())
    return found.view(len(pages), pages.shape[1] * PAGE, *tensor.shape[2:])
