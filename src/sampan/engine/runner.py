"""Runs a plan on the native program and samples its rows."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sampan.core.types import TokenLogprob
from sampan.engine.batch import arrays
from sampan.engine.sampler import choose
from sampan.engine.sequence import Span
from sampan.kernels.native import Machine, out_of_memory
from sampan.kernels.program import Cache, Recorder, symbolic_batch
from sampan.models.registry import Model
from sampan.weights.load import PackedWeights

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Logits of S sampled rows [S, vocabulary], valid until the next step, and their summary.

    `log_total`: natural log of the sum of the exponentials; `finite`: no NaN or infinity in the row.
    """

    logits: Floats
    best: npt.NDArray[np.int64]
    log_total: npt.NDArray[np.float64]
    finite: npt.NDArray[np.bool_]


class Runner:
    """A recorded model with its cache. `max_rows`: tokens of a step."""

    def __init__(
        self, model: Model, weights: PackedWeights, machine: Machine, cache: Cache, max_rows: int
    ) -> None:
        rope = model.config.rope
        recorder = Recorder(machine, weights, cache, max_rows, rope.inv_freq, rope.scale)
        model.forward(recorder, symbolic_batch())
        self.program = recorder.program
        self.cache = cache
        self.max_rows = max_rows

    def run(self, plan: Seq[Span]) -> list[TokenLogprob | str]:
        """A token for each span that samples, or why there is none."""
        rows = self.rows(plan)
        sampling = [span.sequence for span in plan if span.sample]
        results: list[TokenLogprob | str] = []
        for i, sequence in enumerate(sampling):
            if rows.finite[i]:
                results.append(choose(rows.logits[i], int(rows.best[i]), float(rows.log_total[i]), sequence))
            else:
                results.append(f"request {sequence.id}: the model gave logits that are not finite numbers")
        return results

    def rows(self, plan: Seq[Span], *, sample_all: bool = False) -> Rows:
        """Logits of the sampled rows, or of every row."""
        a = arrays(plan, sample_all=sample_all)
        try:
            logits, chunks = self.program.run(a.ids, a.positions, a.spans, a.pages, a.sampled)
        except MemoryError as e:
            raise out_of_memory(f"a step of {a.ids.size} tokens") from e
        return _summary(logits, chunks)


def _summary(logits: Floats, chunks: Floats) -> Rows:
    """Folds the chunks' maxima and sums [S, chunks, 4] in their order."""
    tops, sums = chunks[:, :, 0].astype(np.float64), chunks[:, :, 1].astype(np.float64)
    top = tops.max(axis=1, initial=-np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.log((sums * np.exp(tops - top[:, None])).sum(axis=1)) + top
    first = tops.argmax(axis=1) if len(tops) else np.zeros(0, np.int64)
    best = np.take_along_axis(chunks[:, :, 2], first[:, None], axis=1)[:, 0].astype(np.int64)
    return Rows(logits, best, total, (chunks[:, :, 3] == 1).all(axis=1))
