"""Drafts by a model beside the main one, on the same pages: the checkpoint's own layer, or a small model.

Its cache has the main cache's page numbers, so that whatever is shared, given up or aborted there is so here
too. Its rows are computed when they are needed: when a draft is asked for, or when many wait, so that a
sequence that is not drafted for costs a pass over the weights in `_WAITING` steps. Drafted tokens' rows are
written over by what comes.

Rows of a layer for multi-token prediction (models/predictor.py) take the token behind them and the main
model's state; the last row of a page that is shared may have been computed with another sequence's token.
Nothing of an answer depends on this cache, only how many drafts hold.
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np

from sampan.engine.drafting import Guess
from sampan.engine.sequence import Sequence, Span
from sampan.kernels import backend
from sampan.kernels.backend import Executable, Rows
from sampan.kernels.ops import HIDDEN, STATES
from sampan.kernels.tensors import Floats

_WAITING = 32  # rows of a sequence that wait to be computed
_VAIN = 8  # times in a row that nothing is drafted or holds, before a rest
_LONGEST_REST = 32


@dataclass
class Progress:
    """Of a sequence in the drafter's cache: `filled` rows are there. `states`: the main model's, of rows from
    there on. `ahead`: tokens of rows behind, computed for a draft. `vain`: times in a row that nothing came
    of a draft, after which it takes a rest of so many steps, longer each time."""

    filled: int
    states: list[Floats] = field(default_factory=list)
    ahead: Guess = ()
    vain: int = 0
    rest: int = 0

    def judge(self, tokens: int) -> None:
        """So many came of a draft."""
        self.vain = 0 if tokens else self.vain + 1
        self.rest = min(2 ** (self.vain - _VAIN + 1), _LONGEST_REST) if self.vain >= _VAIN else 0


class ModelDrafter:
    """`depth`: the most tokens of a draft. `confidence`: a token is drafted where its probability is at least
    this. `states`: the model is a layer that reads the main model's. `context`: rows that it was made for.
    `vocabulary`: tokens that it knows."""

    def __init__(
        self,
        executable: Executable,
        *,
        name: str,
        depth: int,
        confidence: float,
        states: bool,
        context: int,
        vocabulary: int,
    ) -> None:
        self.executable = executable
        self.name, self.depth = name, depth
        self._least = math.log(confidence) if confidence > 0 else -math.inf
        self._states, self._context, self._vocabulary = states, context, vocabulary
        self._behind = 1 if states else 0  # a row's token is so many behind it

    def observe(self, plan: Seq[Span], rows: Rows) -> None:
        """The main model has computed a step. Called before its tokens are taken."""
        states = rows.kept(STATES) if self._states else None
        first = 0
        for span in plan:
            if span.sequence.generates:
                own = None if states is None else states[first : first + span.count]
                self._observe(span, own)
            first += span.count

    def draft(self, asked: Seq[tuple[Sequence, int]]) -> list[Guess]:
        """See `Drafter`."""
        guesses: list[list[int]] = [[] for _ in asked]
        turn: list[tuple[int, backend.Span]] = []
        rows = 0
        for place, (sequence, most) in enumerate(asked):
            span = self._last_rows(sequence, most, self.executable.max_rows - rows)
            if span is not None:
                turn.append((place, span))
                rows += len(span.ids)
        first = [place for place, _ in turn]
        while turn:
            turn = self._guess(turn, asked, guesses)
        for place in first:
            if not guesses[place]:
                asked[place][0].progress.judge(0)
        return [tuple(guess) for guess in guesses]

    def learn(self, sequence: Sequence, accepted: int) -> None:
        """How many tokens of the last draft held."""
        if isinstance(sequence.progress, Progress):
            sequence.progress.judge(accepted)

    def _observe(self, span: Span, states: Floats | None) -> None:
        sequence = span.sequence
        progress = sequence.progress
        if progress is None:
            progress = sequence.progress = Progress(span.start)
        if states is not None:
            _cut(progress, span.start - progress.filled)
            progress.states.append(states.copy())
        known = min(span.start + span.count - len(span.draft), len(sequence.tokens) - self._behind)
        known = min(known, self._context)
        while known - progress.filled > _WAITING:
            self._fill(sequence, progress, min(known, progress.filled + self.executable.max_rows))

    def _fill(self, sequence: Sequence, progress: Progress, end: int) -> None:
        """Rows up to `end`."""
        self.executable.run([self._span(sequence, progress, end, sampled=0)])
        self._advance(progress, end)

    def _last_rows(self, sequence: Sequence, most: int, room: int) -> backend.Span | None:
        """The rows that are missing, `room` at most, up to the one that guesses; None where there is no guess
        to be had."""
        progress, end = sequence.progress, len(sequence.tokens) - self._behind
        if not isinstance(progress, Progress) or end + most > self._context:
            return None
        if progress.rest > 0:
            progress.rest -= 1
            return None
        self._settle(sequence, progress)
        if end - progress.filled > room:
            return None
        if self._states:
            _cut(progress, end - progress.filled)
            if sum(map(len, progress.states)) < end - progress.filled:
                return None
        span = self._span(sequence, progress, end, sampled=1)
        self._advance(progress, end)
        return span

    def _guess(
        self, turn: list[tuple[int, backend.Span]], asked: Seq[tuple[Sequence, int]], guesses: list[list[int]]
    ) -> list[tuple[int, backend.Span]]:
        """One token more for each of these; returns what the next ones are guessed from."""
        rows = self.executable.run([span for _, span in turn])
        states = rows.kept(HIDDEN).copy() if self._states else None
        following: list[tuple[int, backend.Span]] = []
        for row, (place, span) in enumerate(turn):
            sequence, most = asked[place]
            if row in rows.unsound or rows.logprobs[row] < self._least:
                continue
            guess = guesses[place]
            guess.append(rows.best[row])
            if len(guess) < most:
                given = None if states is None else states[row : row + 1]
                before = span.before + len(span.ids)
                following.append(
                    (place, backend.Span(guess[-1:], before, sequence.pages, 1, -1, (), given=given))
                )
                if states is None:
                    sequence.progress.ahead = tuple(guess)
        return following

    def _span(self, sequence: Sequence, progress: Progress, end: int, sampled: int) -> backend.Span:
        start = progress.filled
        tokens = sequence.tokens[start + self._behind : end + self._behind]
        ids = [
            token if token < self._vocabulary else 0 for token in tokens
        ]  # beyond it only padding is known
        given = np.concatenate(progress.states)[: end - start] if self._states else None
        return backend.Span(ids, start, sequence.pages, sampled, -1, (), given=given)

    def _advance(self, progress: Progress, end: int) -> None:
        if self._states:
            rest = np.concatenate(progress.states)[end - progress.filled :]
            progress.states = [rest] if len(rest) else []
        progress.filled, progress.ahead = end, ()

    def _settle(self, sequence: Sequence, progress: Progress) -> None:
        """Rows that were computed for a draft which held are there."""
        for token in progress.ahead:
            if progress.filled + 1 >= len(sequence.tokens) or sequence.tokens[progress.filled] != token:
                break
            progress.filled += 1
        progress.ahead = ()


def _cut(progress: Progress, count: int) -> None:
    """Keep the states of the first `count` rows."""
    kept: list[Floats] = []
    for states in progress.states:
        if count <= 0:
            break
        kept.append(states[:count])
        count -= len(states)
    progress.states = kept
