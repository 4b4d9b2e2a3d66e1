"""Runs a plan on the native program and samples its rows."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sampan.core.errors import RequestError
from sampan.core.types import TokenLogprob
from sampan.engine.adapters import AdapterTable
from sampan.engine.sampler import choose
from sampan.engine.scheduler import Sampled
from sampan.engine.sequence import Refusal, Sequence, Span
from sampan.kernels.adapted import AdaptedRecorder, AdapterRoom
from sampan.kernels.native import Machine, out_of_memory
from sampan.kernels.ops import Weight
from sampan.kernels.program import Cache, Recorder, new_program, symbolic_batch
from sampan.models.registry import Model
from sampan.weights.load import PackedWeights, Place

if TYPE_CHECKING:
    from sampan.weights.update import Tensors

Floats = npt.NDArray[np.float32]


@dataclass
class Rows:
    """S sampled rows of the last step, valid until the next.

    `best`: the most probable tokens; `logprobs`: natural logarithms of their probabilities; `log_totals`: of
    the sums of the exponentials; `unsound`: for each row with a NaN or an infinity, the number of the first
    norm that read one, or -1.
    """

    program: Any
    best: list[int]
    logprobs: list[float]
    log_totals: list[float]
    unsound: dict[int, int]

    @cached_property
    def logits(self) -> Floats:
        """[S, vocabulary]."""
        logits: Floats = self.program.sampled_logits
        return logits


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
        results: list[Sampled] = []
        first = 0
        for span in plan:
            if span.sample:
                results.append(self._sampled(rows, first, span))
                first += span.sampled
        return results

    def rows(self, plan: Seq[Span], *, sample_all: bool = False) -> Rows:
        """The sampled rows, or every row."""
        slot = self.adapters.slot
        spans = [
            (
                s.tokens,
                s.start,
                s.sequence.pages,
                s.count if sample_all else s.sampled,
                slot(s.sequence.adapter),
            )
            for s in plan
        ]
        try:
            return Rows(self.program, *self.program.run(spans))
        except MemoryError as e:
            raise out_of_memory(f"a step of {sum(span.count for span in plan)} tokens") from e

    def _sampled(self, rows: Rows, first: int, span: Span) -> Sampled:
        """A span's tokens, of rows from `first` on."""
        wrong = rows.unsound.keys() & range(first, first + span.sampled) if rows.unsound else None
        if not wrong:
            return _tokens(rows, first, span)
        if span.draft:  # a drafted token's damage can reach the rows before it: once more without
            return []
        return [f"request {span.sequence.id}: {self.fault(rows, min(wrong))}"]

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


def _tokens(rows: Rows, first: int, span: Span) -> Sampled:
    """Tokens of a span's rows from `first` on, each after those before it, while they are the draft's."""
    sequence = span.sequence
    constraint = sequence.constraint
    chosen: list[TokenLogprob | str] = []
    for place in range(span.sampled):
        row = first + place
        try:
            token = _best(rows, row) if sequence.plain else _choose(rows, row, sequence, span.draft[:place])
        except RequestError as error:
            said = f"request {sequence.id}: {error}"
            return [*chosen, said if constraint is not None and constraint.failed else Refusal(said)]
        chosen.append(token)
        if place == len(span.draft) or token.token != span.draft[place]:
            break
        if constraint is not None and constraint.done:
            break
    return chosen


def _best(rows: Rows, row: int) -> TokenLogprob:
    return TokenLogprob(rows.best[row], rows.logprobs[row])


def _choose(rows: Rows, row: int, sequence: Sequence, after: tuple[int, ...]) -> TokenLogprob:
    """A row's token, which the sequence's constraint takes; RequestError where there can be none."""
    logits, best, total = rows.logits[row], rows.best[row], rows.log_totals[row]
    constraint = sequence.constraint
    if constraint is None:
        return choose(logits, best, total, sequence, after)
    allowed = constraint.allowed()
    if constraint.error is not None:
        raise RequestError(constraint.error)
    chosen = choose(logits, best, total, sequence, after, allowed)
    constraint.accept(chosen.token)
    return chosen
