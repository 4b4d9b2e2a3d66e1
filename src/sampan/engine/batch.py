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
        first, end = len(ids), span.start + span.count
        table.append((first, span.count, span.start))
        ids.extend(span.sequence.tokens[span.start : end])
        positions.extend(range(span.start, end))
        if sample_all:
            sampled.extend(range(first, len(ids)))
        elif span.sample:
            sampled.append(len(ids) - 1)
    pages = np.zeros((len(plan), max(len(s.sequence.pages) for s in plan)), np.int32)
    for row, span in zip(pages, plan, strict=True):
        row[: len(span.sequence.pages)] = span.sequence.pages
    return Arrays(_ints(ids), _ints(positions), _ints(table), pages, _ints(sampled))


def _ints(values: Sequence[int] | Sequence[tuple[int, int, int]]) -> Ints:
    return np.array(values, np.int32)
