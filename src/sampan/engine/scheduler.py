"""Decides what the next step computes. It never computes: no numerics are imported here.

Sequences that decode go first, so that a long prompt never stalls an answer; prompts take what is left of
the step's rows, in chunks. When pages run out the youngest sequence gives up its pages and starts again
later from its tokens, with the same result. A step that only decodes fills its cheap rows with drafts.

A scored prompt needs the logits of every row whose next token is scored, of which a step has only so many;
what is known of a page that another has scored is not computed again.

A waiting sequence whose next page is being computed for another one waits for it, and keeps its place: those
behind it may go first, but never take the places of those who wait. The same holds for a prompt's last page,
which is copied (`copies`): many answers to one prompt compute it once.
"""

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from itertools import islice

from sampan.core.types import FinishReason, TokenLogprob, TokenScore
from sampan.engine.blocks import BlockPool, Key
from sampan.engine.drafting import Counters, Drafter, Drafting
from sampan.engine.sequence import Event, Sequence, Span
from sampan.engine.spans import Left, summed_rows
from sampan.engine.states import StatePool
from sampan.engine.told import told_scores, told_vector

Sampled = Seq[TokenLogprob | TokenScore | str]
"""What a span gave: scores, then a token for each row up to the first that its draft missed, or an error;
nothing when it must be computed again without its draft."""


class Scheduler:
    """First come, first served over `pool`: at most `max_rows` tokens of `max_sequences` sequences a step.

    `draft_rows`: rows up to which a step that only decodes is filled with drafts; 0 for none. `forced_rows`:
    the same for what grammars force. `drafter`: the model that guesses, if there is one; `lookup`: prompt
    lookup guesses too. `max_sampled`: rows of logits in a step, `max_sequences` unless there may be more.
    `max_summed`: rows that are scored beside answers without logits being held; None where those of all are.
    `states`: slots for what sequences carry besides their pages, 0 where they carry nothing.
    """

    def __init__(
        self,
        pool: BlockPool,
        max_rows: int,
        max_sequences: int,
        draft_rows: int = 0,
        max_sampled: int | None = None,
        max_summed: int | None = None,
        drafter: Drafter | None = None,
        lookup: bool = True,
        states: int = 0,
        forced_rows: int = 0,
    ) -> None:
        self.pool = pool
        self.states = StatePool(states, pool)
        self.max_rows = max_rows
        self.max_sequences = max_sequences
        self.max_sampled = max(max_sequences, max_sampled or 0)
        self.max_summed = max_summed
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.counters = Counters()
        self.copies: list[tuple[int, int]] = []
        """Pages to make what others are, in this order, before the step is computed."""
        self._tails = pool.reuse and drafter is None and not states  # their rows would not come with a copy
        rows, forced_rows = min(draft_rows, max_rows), min(forced_rows, max_rows)
        self.drafting = Drafting(
            pool, self.states, rows, self.counters, drafter, lookup=lookup, forced_rows=forced_rows
        )

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
        summed = summed_rows((*self.running, *self.waiting), self.max_summed, self.max_rows)
        left = Left(self.max_rows, self.max_sampled, summed)
        behind = min(len(self.waiting), self.max_sequences - len(self.running))
        for sequence in sorted(self.running, key=lambda s: s.remaining > 1):
            count = left.fitting(sequence, behind)
            if count > 0 and sequence.pages and self._make_room(sequence, count, plan):  # none: gave way
                plan.append(left.take(sequence, count))
        if left.rows > 0 and self.waiting:
            self._admit(plan, left)
        if sum(span.count for span in plan) < self.drafting.most and all(span.answers for span in plan):
            self.drafting.fill(plan)
        return plan

    def postprocess(self, plan: Iterable[Span], sampled: Iterable[Sampled]) -> list[Event]:
        """Take the step's tokens, or error messages, in the order of the spans that sample."""
        events: list[Event] = []
        results = iter(sampled)
        for span in plan:
            given: Sampled = next(results) if span.sampled else ()
            taken = _take(span.sequence, [each for each in given if not isinstance(each, TokenScore)])
            if span.draft:
                self.drafting.learn(span, len(taken))
            drafted = 1 + len(span.draft) if span.sample else 0
            missed = drafted - min(len(taken), drafted)
            redone = span.count if missed and self.states.count else missed  # a state cannot be cut
            span.sequence.computed = span.start + span.count - redone
            if span.sequence.scoring is not None and not (taken and taken[-1].error):
                taken = told_scores(span.sequence, given) + taken
            if span.sequence.pooled is not None and not taken:
                taken = told_vector(span.sequence)
            self._settle(span.sequence, taken, advanced=missed == 0)
            events += taken
        return events

    def _settle(self, sequence: Sequence, taken: list[Event], *, advanced: bool) -> None:
        """Publish what was computed, and let the sequence go if it has ended."""
        last = taken[-1] if taken else None
        if last is None or last.error is None:
            self._publish(sequence)
            if advanced:
                self.states.advance(sequence)
        if last is not None and last.finish_reason is not None:
            self._drop(sequence)

    def _publish(self, sequence: Sequence) -> None:
        size = self.pool.size
        full = sequence.computed // size if self.pool.reuse else 0
        if full > sequence.published:
            blocks = sequence.blocks(full, size)
            for index in range(sequence.published, full):
                self.pool.publish(sequence.pages, index, blocks[index])
                self._note(sequence, index)
            sequence.published = full
        if self._tails and sequence.computed == sequence.prompt_tokens:
            index, tail = sequence.tail(size)
            if tail:
                self.pool.publish_tail(sequence.pages, index, tail)

    def _note(self, sequence: Sequence, index: int) -> None:
        """Keep with a page what its tokens were scored as, or pooled to."""
        note: object = None
        if sequence.pooled is not None:
            note = sequence.pooled.of_page(index)
        elif sequence.scoring is not None and sequence.scoring.plain:
            note = sequence.scores_of(index * self.pool.size, (index + 1) * self.pool.size)
        if note is not None:
            self.pool.note(sequence.pages[index], note)

    def _recall(self, sequence: Sequence, found: list[int]) -> int:
        """Take what is known of these pages' tokens; returns how many pages the sequence can hold: the
        row that scores the next token goes through the model again, also where it is the last one of a
        page."""
        if sequence.pooled is not None:
            return sequence.pooled.recall([self.pool.noted(page) for page in found])
        size, how = self.pool.size, sequence.scoring
        while how is not None and how.plain and sequence.next_scored < len(found) * size:
            page, within = divmod(sequence.next_scored, size)
            noted = self.pool.noted(found[page])
            if not isinstance(noted, list):
                break
            sequence.scored += noted[within - (1 if page == 0 else 0) :]
        return min(len(found), sequence.next_scored // size)

    def _admit(self, plan: list[Span], left: Left) -> None:
        """Start waiting sequences, each if its whole text has room, and plan what is left of the step."""
        pending = {key for sequence in self.running for key in self._next_keys(sequence)}
        places = self.max_sequences - len(self.running)
        candidates = list(islice(self.waiting, places))
        for place, sequence in enumerate(candidates, 1):
            blocks = self._shareable(sequence)
            found = self.pool.match(blocks)
            n = len(found)
            if n < len(blocks) and self.pool.key(found, n, blocks[n]) in pending:
                continue
            if sequence.scoring is not None or sequence.pooled is not None:
                found = found[: self._recall(sequence, found)]
            found = self.states.usable(sequence, found)
            tail = self._tail_key(sequence, found)
            known = None if tail is None else self.pool.tail(tail)
            if tail in pending and known is None:
                continue
            missing = self.pool.needed(len(sequence.tokens) + 1) - len(found)
            full = self.states.full or missing > self.pool.free_without(found)
            if left.rows == 0 or left.sampled == 0 or full:
                return
            self._start(sequence, found, known)
            self.counters.looked_up += len(sequence.tokens) if self.pool.reuse else 0
            self.counters.found += sequence.computed
            pending |= self._next_keys(sequence)
            count = left.fitting(sequence, len(candidates) - place)
            if count > 0:
                plan.append(left.take(sequence, count))

    def _shareable(self, sequence: Sequence) -> list[bytes]:
        """The pages it may take from others: one token at least is computed, to sample from."""
        size = self.pool.size
        return sequence.blocks((len(sequence.tokens) - 1) // size, size) if self.pool.reuse else []

    def _next_keys(self, sequence: Sequence) -> set[Key]:
        """By which its first page that is not published yet will be known: its tokens, if the text fills it,
        and the tail of the prompt."""
        index, size = sequence.published, self.pool.size
        keys = set()
        if self.pool.reuse and (index + 1) * size <= len(sequence.tokens):
            keys.add(self.pool.key(sequence.pages, index, sequence.blocks(index + 1, size)[index]))
        if sequence.computed < sequence.prompt_tokens and (
            tail := self._tail_key(sequence, sequence.pages[:index])
        ):
            keys.add(tail)
        return keys

    def _tail_key(self, sequence: Sequence, pages: Seq[int]) -> Key | None:
        """By which the last page of its prompt is known, if all before it are `pages`."""
        if not self._tails or sequence.scoring is not None or sequence.pooled is not None:
            return None
        index, tail = sequence.tail(self.pool.size)
        return self.pool.key(pages, index, tail) if tail and len(pages) == index else None

    def _start(self, sequence: Sequence, found: list[int], tail: int | None) -> None:
        self.pool.hold(found)
        sequence.pages.extend(found)
        sequence.published = len(found)
        sequence.computed = min(len(found) * self.pool.size, sequence.next_scored - 1)
        self.states.start(sequence)
        self.pool.extend(sequence.pages, len(sequence.tokens))
        if tail is not None:
            page = sequence.pages[len(found)]
            self.copies += [(tail, page)] if page != tail else []  # which may just have been given away
            sequence.computed = sequence.prompt_tokens - 1
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
        self.waiting.remove(sequence)
        self.running.append(sequence)

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
        self.states.release(sequence)
        sequence.computed = sequence.published = 0
        sequence.progress = None
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)
        self.counters.preempted += 1

    def _drop(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages)
        self.states.release(sequence)
        (self.running if sequence in self.running else self.waiting).remove(sequence)


def _take(sequence: Sequence, results: Seq[TokenLogprob | str]) -> list[Event]:
    """Append a step's tokens up to the one that ends the sequence."""
    events: list[Event] = []
    cached = sequence.cached_tokens or 0
    done = sequence.constraint is not None and sequence.constraint.done
    for place, result in enumerate(results):
        if isinstance(result, str):
            return [*events, Event(sequence.id, None, "error", result, cached)]
        sequence.tokens.append(result.token)
        reason = _finish_reason(sequence, result.token, done and place == len(results) - 1)
        events.append(Event(sequence.id, result, reason, None, cached, adapter=sequence.adapter))
        if reason is not None:
            break
    return events


def _finish_reason(sequence: Sequence, token: int, done: bool) -> FinishReason | None:
    if done or token in sequence.stop_ids:
        return "stop"
    return "length" if len(sequence.tokens) >= sequence.limit else None
