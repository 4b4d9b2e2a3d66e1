"""Hidden states of a prompt's tokens as one vector.

A mean is summed in float64, page by page in the order of the tokens: its bits depend neither on how the
prompt was cut nor on which of its pages were known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sampan.core.types import Pooling
from sampan.kernels.backend import PAGE
from sampan.kernels.tensors import Floats

Sum = npt.NDArray[np.float64]
"""Of a page's rows, [width]; kept with the page."""


@dataclass(eq=False)
class PromptVector:
    """What is known of a prompt's vector: see `sequence.Pooled`. `count`: of the tokens that are in it."""

    how: Pooling
    count: int = 0
    _sums: list[Sum] = field(default_factory=list)

    def first(self, end: int) -> int:
        """The first row that is still needed of those before `end`."""
        return self.count if self.how == "mean" else end - 1

    def take(self, rows: Floats) -> None:
        """The next rows [n, width]; of "last", the last alone."""
        if self.how == "last":
            self._sums = [rows[-1].astype(np.float64)]
            return
        for row in rows:
            if self.count % PAGE == 0:
                self._sums.append(np.zeros(len(row)))
            self._sums[-1] += row
            self.count += 1

    def of_page(self, index: int) -> Sum | None:
        """What is kept with a full page, where anything is."""
        return self._sums[index] if self.how == "mean" else None

    def recall(self, noted: Sequence[object]) -> int:
        """Take what was kept with a prompt's first pages; returns how many of them it can hold."""
        if self.how == "last":
            return len(noted)
        for index, note in enumerate(noted):
            if not isinstance(note, np.ndarray):
                return index
            if self.count < (index + 1) * PAGE:
                self._sums[index:] = [note]
                self.count = (index + 1) * PAGE
        return len(noted)

    def vector(self) -> tuple[float, ...]:
        """Of the whole prompt, [width]."""
        total = self._sums[0].copy()
        for each in self._sums[1:]:
            total += each
        done = total / self.count if self.how == "mean" else total
        return tuple(done.tolist())
