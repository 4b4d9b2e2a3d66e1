"""The paged cache on a device, and one step's attention over it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sampan.kernels.backend import PAGE, Span
from sampan.kernels.ops import Attention
from sampan.kernels.torch.ops import attention

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SCORES = 2**24
"""The most scores that are there at once, of all heads."""


class PagedCache:
    """Keys and values of every layer, [pages * PAGE, KV heads, size] each."""

    def __init__(self, shapes: Sequence[Attention], pages: int, dtype: str, device: torch.device) -> None:
        def zeros(shape: Attention, size: int) -> Tensor:
            return torch.zeros(pages * PAGE, shape.kv_heads, size, dtype=DTYPES[dtype], device=device)

        self._device = device
        self._keys = {shape.layer: zeros(shape, shape.key_size) for shape in shapes}
        self._values = {shape.layer: zeros(shape, shape.value_size) for shape in shapes}

    def step(self, spans: Sequence[Span]) -> "PagedStep":
        """What these spans read and write."""
        return PagedStep(self, spans)

    def tensors(self, layer: int) -> tuple[Tensor, Tensor]:
        """Of one layer."""
        return self._keys[layer], self._values[layer]

    def index(self, values: np.ndarray) -> Tensor:
        """Whole numbers on the device."""
        return torch.from_numpy(values.astype(np.int64)).to(self._device)


class PagedStep:
    """Where the tokens of a step lie, and their attention: rows of one token together, the others apart."""

    def __init__(self, cache: PagedCache, spans: Sequence[Span]) -> None:
        self._cache = cache
        lengths = [span.before + len(span.ids) for span in spans]
        places = [_places(span, length) for span, length in zip(spans, lengths, strict=True)]
        self._slots = cache.index(np.concatenate([p[s.before :] for p, s in zip(places, spans, strict=True)]))
        self._work: list[tuple[Tensor, Tensor, Tensor]] = []  # rows [B, n], places [B, m], lengths [B, n]
        first, single = 0, []
        for span, own, length in zip(spans, places, lengths, strict=True):
            rows = np.arange(first, first + len(span.ids))
            first += len(span.ids)
            if len(rows) == 1:
                single.append((rows, own, length))
            else:
                self._add([rows], [own], np.arange(span.before + 1, length + 1)[None])
        if single:
            rows, own, ends = zip(*single, strict=True)
            self._add(list(rows), list(own), np.array(ends)[:, None])

    def _add(self, rows: list[np.ndarray], places: list[np.ndarray], lengths: np.ndarray) -> None:
        most = max(map(len, places))
        # With the sequence's own last place: what lies in another's page may not be finite.
        padded = np.stack([np.pad(own, (0, most - len(own)), mode="edge") for own in places])
        self._work.append(tuple(map(self._cache.index, (np.stack(rows), padded, lengths))))  # type: ignore[arg-type]

    def attend(self, shape: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Appends k and v, then attends: see `Step`."""
        keys, values = self._cache.tensors(shape.layer)
        keys[self._slots], values[self._slots] = k.to(keys.dtype), v.to(values.dtype)
        out = q.new_empty(len(q), shape.heads, shape.value_size)
        for rows, places, lengths in self._work:
            most = places.shape[1]
            held = keys[places].to(q.dtype), values[places].to(q.dtype)
            step = max(1, SCORES // (shape.heads * most * len(rows)))
            for start in range(0, rows.shape[1], step):
                some = rows[:, start : start + step]
                columns = torch.arange(most, device=q.device)
                allowed = columns < lengths[:, start : start + step, None]
                out[some] = attention(shape, q[some], *held, allowed)
        return out


def _places(span: Span, length: int) -> np.ndarray:
    """Where each of the sequence's tokens lies in the cache."""
    pages = np.frombuffer(span.pages, np.int32)[: -(-length // PAGE)].astype(np.int64)
    return (pages[:, None] * PAGE + np.arange(PAGE)).reshape(-1)[:length]
