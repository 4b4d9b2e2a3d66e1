"""A step's spans as the arrays that the native program takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sampan.engine.sequence import Span

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Arrays:
    """T rows, N spans, S sampled rows. `spans` [N, 3]: first row, rows, tokens before; `pages` [N, most]."""

    ids: Ints
    positions: Ints
    spans: Ints
    pages: Ints
    sampled: Ints


def arrays(plan: Sequence[Span], *, sample_all: bool = False) -> Arrays:
    """Rows of the spans one after another; `sample_all` gives logits for every row (scoring)."""
    ids: list[int] = []
    positions: list[int] = []
    table: list[tuple[int, int, int]] = []
    sampled: list[int] = []
    for span in plan:
        first, last = len(ids), len(ids) + span.count
        table.append((first, span.count, span.start))
        ids += span.sequence.tokens[span.start : span.start + span.count - len(span.draft)]
        ids += span.draft
        positions += range(span.start, span.start + span.count)
        sampled += range(first if sample_all else last - span.sampled, last)
    return Arrays(_ints(ids), _ints(positions), _ints(table), _pages(plan), _ints(sampled))


def _pages(plan: Sequence[Span]) -> Ints:
    held = [span.sequence.pages for span in plan]
    width = max(map(len, held))
    rows = b"".join([pages.tobytes().ljust(4 * width, b"\0") for pages in held])
    return np.frombuffer(rows, np.int32).reshape(len(plan), width)


def _ints(values: Sequence[int] | Sequence[tuple[int, int, int]]) -> Ints:
    return np.array(values, np.int32)
