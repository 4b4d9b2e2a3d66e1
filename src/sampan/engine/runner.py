"""Runs a plan on the native program and samples its rows."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sampan.core.errors import RequestError
from sampan.core.types import TokenLogprob
from sampan.engine.adapters import AdapterTable
from sampan.engine.batch import arrays
from sampan.engine.sampler import choose, takes_best
from sampan.engine.scheduler import Sampled
from sampan.engine.sequence import Sequence, Span
from sampan.kernels.adapted import AdaptedRecorder, AdapterRoom
from sampan.kernels.native import Machine, out_of_memory
from sampan.kernels.ops import Weight
from sampan.kernels.program import Cache, Recorder, new_program, symbolic_batch
from sampan.models.registry import Model
from sampan.weights.load import PackedWeights, Place

if TYPE_CHECKING:
    from sampan.weights.update import Tensors

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Logits of S sampled rows [S, vocabulary], valid until the next step, and their summary.

    `log_total`: natural log of the sum of the exponentials; `finite`: no NaN or infinity in the row;
    `unsound`: number of the first norm that read a NaN or an infinity, or -1.
    """

    logits: Floats
    best: npt.NDArray[np.int64]
    log_total: npt.NDArray[np.float64]
    finite: npt.NDArray[np.bool_]
    unsound: list[int]


class Runner:
    """A recorded model with its cache. `max_rows`: tokens of a step. `room`: for adapters, if any."""

    def __init__(
        self,
        model: Model,
        weights: PackedWeights,
        machine: Machine,
        cache: Cache,
        max_rows: int,
        room: AdapterRoom | None = None,
    ) -> None:
        rope = model.config.rope
        program = new_program(machine, cache, max_rows, rope.inv_freq, rope.scale)
        recorder = AdaptedRecorder(program, weights, room) if room else Recorder(program, weights)
        model.forward(recorder, symbolic_batch())
        self.model, self.weights, self.machine = model, weights, machine
        self.adapters = AdapterTable(recorder if isinstance(recorder, AdaptedRecorder) else None)
        self.program = recorder.program
        self.norms = recorder.norms
        self._biases = recorder.biases
        self.cache = cache
        self.max_rows = max_rows

    def run(self, plan: Seq[Span]) -> list[Sampled]:
        """What each span that samples gives (see `Sampled`)."""
        rows = self.rows(plan)
        best = _best(rows)
        sound = rows.finite.tolist()
        results: list[Sampled] = []
        first = 0
        for span in plan:
            if span.sample:
                end = first + span.sampled
                wrong = next((i for i in range(first, end) if not sound[i]), None)
                if wrong is None:
                    results.append(_tokens(rows, best, first, span))
                elif span.draft:  # a drafted token's damage can reach the rows before it: once more without
                    results.append([])
                else:
                    results.append([f"request {span.sequence.id}: {self.fault(rows, wrong)}"])
                first = end
        return results

    def rows(self, plan: Seq[Span], *, sample_all: bool = False) -> Rows:
        """Logits of the sampled rows, or of every row."""
        a, slots = arrays(plan, sample_all=sample_all), self.adapters.slots(plan)
        try:
            logits, chunks, unsound = self.program.run(a.ids, a.positions, a.spans, a.pages, a.sampled, slots)
        except MemoryError as e:
            raise out_of_memory(f"a step of {a.ids.size} tokens") from e
        return _summary(logits, chunks, unsound)

    def update(self, tensors: "Tensors") -> None:
        """Write new weights in place; see `weights/update.py`."""
        from sampan.weights.update import update

        update(tensors, self.model.weights(), self._place, self.machine)

    def _place(self, weight: Weight) -> Place:
        place, bias = self.weights.place(weight), self._biases.get(weight.name)
        return place if bias is None else Place(vectors=(*place.vectors, bias))

    def fault(self, rows: Rows, row: int) -> str:
        """Where a row stopped being finite."""
        norm = rows.unsound[row]
        where = "in the head" if norm < 0 else f"before {self.norms[norm].removesuffix('.weight')}"
        return f"the model gave logits that are not finite numbers (first seen {where})"


def _best(rows: Rows) -> list[TokenLogprob]:
    """Each row's most probable token."""
    values = rows.logits[np.arange(rows.best.size), rows.best]
    with np.errstate(invalid="ignore"):
        logprobs = values.astype(np.float64) - rows.log_total
    return [TokenLogprob(*pair) for pair in zip(rows.best.tolist(), logprobs.tolist(), strict=True)]


def _tokens(rows: Rows, best: list[TokenLogprob], first: int, span: Span) -> Sampled:
    """Tokens of a span's rows from `first` on, each after those before it, while they are the draft's."""
    sequence = span.sequence
    constraint = sequence.constraint
    plain = constraint is None and takes_best(sequence.sampling)
    chosen: list[TokenLogprob | str] = []
    for place in range(span.sampled):
        row = first + place
        try:
            token = best[row] if plain else _choose(rows, row, best[row].token, sequence, span.draft[:place])
        except RequestError as error:
            return [*chosen, f"request {sequence.id}: {error}"]
        chosen.append(token)
        if place == len(span.draft) or token.token != span.draft[place]:
            break
        if constraint is not None and constraint.done:
            break
    return chosen


def _choose(rows: Rows, row: int, best: int, sequence: Sequence, after: tuple[int, ...]) -> TokenLogprob:
    """A row's token, which the sequence's constraint takes; RequestError where there can be none."""
    logits, total, constraint = rows.logits[row], float(rows.log_total[row]), sequence.constraint
    if constraint is None:
        return choose(logits, best, total, sequence, after)
    allowed = constraint.allowed()
    if constraint.error is not None:
        raise RequestError(constraint.error)
    chosen = choose(logits, best, total, sequence, after, allowed)
    constraint.accept(chosen.token)
    return chosen


def _summary(logits: Floats, chunks: Floats, unsound: list[int]) -> Rows:
    """Folds the chunks' maxima and sums [S, chunks, 4] in their order."""
    tops, sums = chunks[:, :, 0].astype(np.float64), chunks[:, :, 1].astype(np.float64)
    top = tops.max(axis=1, initial=-np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.log((sums * np.exp(tops - top[:, None])).sum(axis=1)) + top
    first = tops.argmax(axis=1) if len(tops) else np.zeros(0, np.int64)
    best = np.take_along_axis(chunks[:, :, 2], first[:, None], axis=1)[:, 0].astype(np.int64)
    return Rows(logits, best, total, (chunks[:, :, 3] == 1).all(axis=1), unsound)
