"""Runs a plan on an executable and samples its rows."""

from collections.abc import Sequence as Seq

import numpy as np

from sampan.core.errors import RequestError
from sampan.core.types import TokenLogprob
from sampan.engine.adapters import AdapterTable
from sampan.engine.drafter import ModelDrafter
from sampan.engine.sampler import choose
from sampan.engine.scheduler import Sampled
from sampan.engine.scoring import score_rows
from sampan.engine.sequence import Refusal, Sequence, Span
from sampan.kernels import backend
from sampan.kernels.backend import AdapterRoom, Executable, NewValues, Rows
from sampan.kernels.ops import HIDDEN


class Runner:
    """An executable with its cache of `pages`, and `states` beside it. `max_rows`: tokens of a step. `room`:
    for adapters, if any. `drafter`: a model that guesses what this one gives, if any."""

    def __init__(
        self,
        executable: Executable,
        pages: int,
        room: AdapterRoom | None = None,
        drafter: ModelDrafter | None = None,
        states: int = 0,
    ) -> None:
        self.executable = executable
        self.drafter = drafter
        self.pages, self.states = pages, states
        self.adapters = AdapterTable(executable, room)
        self.max_rows = executable.max_rows

    def run(self, plan: Seq[Span]) -> list[Sampled]:
        """What each span that samples gives (see `Sampled`)."""
        rows = self.rows(plan)
        results: list[Sampled] = []
        first = 0
        for span in plan:
            if span.sampled:
                results.append(self._sampled(rows, first, span))
                first += span.sampled
        if self.drafter is not None and plan:
            self.drafter.observe(plan, rows)
        return results

    def rows(self, plan: Seq[Span], *, sample_all: bool = False) -> Rows:
        """The sampled rows, or every row."""
        slot, targets = self.adapters.slot, self.executable.takes_targets and not sample_all
        spans = [
            backend.Span(
                s.tokens,
                s.start,
                s.sequence.pages,
                s.count if sample_all else s.sampled,
                slot(s.sequence.adapter),
                s.targets if targets and _summed(s) else (),
                s.sequence.state.reads,
                s.sequence.state.writes,
            )
            for s in plan
        ]
        return self.executable.run(spans)

    def _sampled(self, rows: Rows, first: int, span: Span) -> Sampled:
        """A span's tokens, of rows from `first` on."""
        if span.pooled:
            return _pool(rows, first, span)
        wrong = rows.unsound.keys() & range(first, first + span.sampled) if rows.unsound else None
        if not wrong:
            scored = score_rows(rows, first, span) if span.scored else []
            return [*scored, *_tokens(rows, first + span.scored, span)] if span.sample else scored
        if span.scored:
            row = span.start + span.count - span.sampled + min(wrong) - first
            return [f"after token {row}: {fault(rows, min(wrong))}"]
        if span.draft:  # a drafted token's damage can reach the rows before it: once more without
            return []
        return [f"request {span.sequence.id}: {fault(rows, min(wrong))}"]

    def copy(self, pages: Seq[tuple[int, int]]) -> None:
        """Make the second page of each pair what the first is, one pair after another."""
        if pages:
            self.executable.copy_pages(pages)

    def update(self, values: NewValues) -> None:
        """Write new weights in place."""
        self.executable.update(values)


def _summed(span: Span) -> bool:
    """Whether its scores need no logits but the targets'."""
    how = span.sequence.scoring
    return span.scored > 0 and how is not None and how.plain


def _pool(rows: Rows, first: int, span: Span) -> Sampled:
    """Take the hidden states of a span's rows."""
    values = rows.kept(HIDDEN)[first : first + span.pooled]
    if not np.isfinite(values).all():
        return [f"request {span.sequence.id}: the model gave hidden states that are not finite numbers"]
    assert span.sequence.pooled is not None
    span.sequence.pooled.take(values)
    return []


def fault(rows: Rows, row: int) -> str:
    """Where a row stopped being finite."""
    return f"the model gave logits that are not finite numbers (first seen {rows.unsound[row]})"


def _tokens(rows: Rows, first: int, span: Span) -> Sampled:
    """Tokens of a span's rows from `first` on, each after those before it, while they are the draft's."""
    sequence = span.sequence
    constraint = sequence.constraint
    chosen: list[TokenLogprob | str] = []
    for place in range(1 + len(span.draft)):
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
    (logits,), best, total = rows.logits_of(row, 1), rows.best[row], rows.log_totals[row]
    constraint = sequence.constraint
    if constraint is None:
        return choose(logits, best, total, sequence, after)
    allowed = constraint.allowed()
    if constraint.error is not None:
        raise RequestError(constraint.error)
    chosen = choose(logits, best, total, sequence, after, allowed)
    constraint.accept(chosen.token)
    return chosen
