"""Decides what the next step computes. It never computes: no numerics are imported here.

Sequences that decode go first, so that a long prompt never stalls an answer; prompts take what is left of
the step's rows, in chunks. When pages run out the youngest sequence gives up its pages and starts again
later from its tokens, with the same result.
"""

from collections import deque
from collections.abc import Iterable

from sampan.core.types import FinishReason, TokenLogprob
from sampan.engine.blocks import BlockPool
from sampan.engine.sequence import Event, Sequence, Span


class Scheduler:
    """First come, first served over `pool`: at most `max_rows` tokens of `max_sequences` sequences a step."""

    def __init__(self, pool: BlockPool, max_rows: int, max_sequences: int) -> None:
        self.pool = pool
        self.max_rows = max_rows
        self.max_sequences = max_sequences
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def abort(self, request: int) -> bool:
        """Forget a request and free its pages; False when it is not known (any more)."""
        for sequence in [*self.running, *self.waiting]:
            if sequence.id == request:
                self._drop(sequence)
                return True
        return False

    def schedule(self) -> list[Span]:
        """The next step's spans, with pages for all of them."""
        plan: list[Span] = []
        rows = self.max_rows
        for sequence in sorted(self.running, key=lambda s: s.remaining > 1):
            if (
                rows > 0
                and sequence in self.running
                and self._make_room(sequence, min(rows, sequence.remaining), plan)
            ):
                rows -= self._plan(plan, sequence, rows)
        while rows > 0 and self.waiting and len(self.running) < self.max_sequences:
            if not self._admit(self.waiting[0], rows):
                break
            rows -= self._plan(plan, self.running[-1], rows)
        return plan

    def postprocess(self, plan: Iterable[Span], sampled: Iterable[TokenLogprob | str]) -> list[Event]:
        """Take the step's tokens, or error messages, in the order of the spans that sample."""
        events: list[Event] = []
        results = iter(sampled)
        for span in plan:
            span.sequence.computed += span.count
            if span.sample:
                events.append(self._take(span.sequence, next(results)))
        return events

    def _take(self, sequence: Sequence, result: TokenLogprob | str) -> Event:
        if isinstance(result, str):
            self._drop(sequence)
            return Event(sequence.id, None, "error", result)
        sequence.tokens.append(result.token)
        reason = _finish_reason(sequence, result.token)
        if reason is not None:
            self._drop(sequence)
        return Event(sequence.id, result, reason)

    def _admit(self, sequence: Sequence, rows: int) -> bool:
        """Move the first waiting sequence to the running ones if its whole text has room."""
        if self.pool.needed(len(sequence.tokens) + 1) > self.pool.free:
            return False
        self.pool.extend(sequence.pages, min(rows, sequence.remaining))
        self.waiting.popleft()
        self.running.append(sequence)
        return True

    def _plan(self, plan: list[Span], sequence: Sequence, rows: int) -> int:
        count = min(rows, sequence.remaining)
        plan.append(Span(sequence, sequence.computed, count, sample=count == sequence.remaining))
        return count

    def _make_room(self, sequence: Sequence, count: int, plan: list[Span]) -> bool:
        """Pages for `count` more tokens, taken from younger sequences if need be."""
        while not self.pool.extend(sequence.pages, sequence.computed + count):
            planned = {id(span.sequence) for span in plan}
            victims = [s for s in self.running if id(s) not in planned and s is not sequence]
            victim = victims[-1] if victims else sequence
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages)
        sequence.computed = 0
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)

    def _drop(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages)
        (self.running if sequence in self.running else self.waiting).remove(sequence)


def _finish_reason(sequence: Sequence, token: int) -> FinishReason | None:
    if token in sequence.stop_ids:
        return "stop"
    return "length" if len(sequence.tokens) >= sequence.limit else None
