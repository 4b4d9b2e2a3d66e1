"""How a step is shared out: rows, rows of logits, and rows that are scored."""

from collections.abc import Iterable
from dataclasses import dataclass

from sampan.engine.sequence import Sequence, Span


@dataclass
class Left:
    """What is left of a step: rows, rows of logits, and rows that are scored without logits being held (None
    where those of all are)."""

    rows: int
    sampled: int
    summed: int | None = None

    def fitting(self, sequence: Sequence, behind: int) -> int:
        """How many rows of a sequence still go into the step. A scored prompt leaves a row of logits to each
        of those `behind` it, who may begin to answer."""
        count = sequence.next_rows(self.rows)
        span = span_of(sequence, count)
        held, summed = self._kinds(span)
        over = held - self.sampled + (behind if span.scored > summed or span.pooled else 0)
        if summed > (self.summed or 0):  # the last row goes first, which may score nothing
            over = max(over, summed - (self.summed or 0) + span.sample)
        return count if over <= 0 else max(0, count - over)

    def take(self, sequence: Sequence, count: int) -> Span:
        """That many of them."""
        span = span_of(sequence, count)
        held, summed = self._kinds(span)
        self.rows -= count
        self.sampled -= held
        if self.summed is not None:
            self.summed -= summed
        return span

    def _kinds(self, span: Span) -> tuple[int, int]:
        """Rows whose logits are held, and scored ones whose are not."""
        how = span.sequence.scoring
        summed = span.scored if self.summed is not None and how is not None and how.plain else 0
        return span.sampled - summed, summed


def summed_rows(sequences: Iterable[Sequence], beside: int | None, most: int) -> int | None:
    """Rows that a step scores without logits being held (see `Left`): `beside` those who are answered or
    wait for that, and `most` where nobody is."""
    return beside if beside is None or any(sequence.generates for sequence in sequences) else most


def span_of(sequence: Sequence, count: int) -> Span:
    """Its next rows."""
    end = sequence.computed + count
    if sequence.pooled is not None:
        wanted = sequence.pooled.how == "mean" or count == sequence.remaining
        first = max(sequence.computed, sequence.pooled.first(end))
        return Span(
            sequence, sequence.computed, count, sample=False, pooled=max(0, end - first) if wanted else 0
        )
    last = min(end, sequence.prompt_tokens - 1)  # the row behind a prompt scores nothing
    scored = max(0, last - max(sequence.computed, sequence.next_scored - 1))
    sample = count == sequence.remaining and sequence.generates
    return Span(sequence, sequence.computed, count, sample, scored=scored)
