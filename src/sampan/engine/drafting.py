"""What a step that only decodes is filled with: tokens that may follow each sequence's own, to be verified.

Whoever guesses, a guess changes nothing but speed: its rows count for as long as the sampler chooses what was
guessed. What a grammar forces goes first, also where nobody else drafts: it holds all but always. Then what a
model guesses (`drafter.py`); then prompt lookup, which also takes the place of a model's shorter guess where
the two agree on the first token.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import Protocol

from sampan.engine.blocks import BlockPool
from sampan.engine.sequence import Sequence, Span
from sampan.engine.states import StatePool

Guess = tuple[int, ...]


class Drafter(Protocol):
    """A model that guesses (here are no numerics)."""

    @property
    def name(self) -> str:
        """As the counters have it."""

    @property
    def depth(self) -> int:
        """The most tokens of a guess."""

    def draft(self, asked: Seq[tuple[Sequence, int]]) -> list[Guess]:
        """At most so many tokens for each sequence, whose pages have room for them."""

    def learn(self, sequence: Sequence, accepted: int) -> None:
        """How many tokens of the last draft held."""


@dataclass
class Counters:
    """Since the start: tokens looked up in the cache at admission, and those found there; draft tokens;
    sequences that gave way.

    `depths`: by who drafted, for each place of a draft the tokens that were drafted there and those of them
    that held."""

    looked_up: int = 0
    found: int = 0
    drafted: int = 0
    accepted: int = 0
    preempted: int = 0
    depths: dict[str, list[list[int]]] = field(default_factory=dict)

    def by_depth(self) -> dict[str, list[tuple[int, int]]]:
        """A copy of `depths`, also while another thread counts."""
        return {
            source: [(drafted, held) for drafted, held in list(d)] for source, d in list(self.depths.items())
        }

    def note(self, source: str, drafted: int, accepted: int) -> None:
        """A draft that was verified."""
        self.drafted += drafted
        self.accepted += accepted
        depths = self.depths.setdefault(source, [])
        depths += [[0, 0] for _ in range(len(depths), drafted)]
        for place in range(drafted):
            depths[place][0] += 1
            depths[place][1] += place < accepted


class Drafting:
    """Fills steps of up to `rows` rows with guesses, of up to `forced_rows` with what grammars force; 0 for
    none. `lookup`: prompt lookup is tried."""

    def __init__(
        self, pool: BlockPool, states: StatePool, rows: int, counters: Counters, drafter: Drafter | None,
        *, lookup: bool, forced_rows: int = 0,
    ) -> None:  # fmt: skip
        self.most = max(rows, forced_rows)
        self.rows = rows
        self._pool, self._states = pool, states
        self._counters = counters
        self._drafter = drafter
        self._lookup = lookup

    def fill(self, plan: list[Span]) -> None:
        """Each sequence gets its share of the rows that those before it left."""
        used = sum(span.count for span in plan)
        room, room_forced = self.rows - used, self.most - used
        forced = {span.sequence.id: _forced(span.sequence) for span in plan}
        guesses = self._guesses([span.sequence for span in plan if not forced[span.sequence.id]], room)
        for place, span in enumerate(plan):
            sequence, draft = span.sequence, forced[span.sequence.id]
            most = _most(sequence, -(-(room_forced if draft else room) // (len(plan) - place)))
            if most <= 0:
                continue
            draft, source = draft[:most], "grammar"
            if not draft:
                draft, source = self._chosen(sequence, guesses.get(sequence.id, ())[:most], most)
            fits = draft and self._pool.extend(sequence.pages, len(sequence.tokens) + len(draft))
            if fits and self._states.branch(sequence):
                plan[place] = replace(span, count=span.count + len(draft), draft=draft, source=source)
                room, room_forced = room - len(draft), room_forced - len(draft)

    def learn(self, span: Span, given: int) -> None:
        """How many tokens a span with a draft gave; none where it must be computed again without."""
        sequence = span.sequence
        if given == 0:
            sequence.lookup, sequence.drafts = None, False
            return
        self._counters.note(span.source, len(span.draft), given - 1)
        if sequence.lookup is not None and span.source == "lookup":
            sequence.lookup.learn(len(span.draft), given - 1)
        if self._drafter is not None and span.source == self._drafter.name:
            self._drafter.learn(sequence, given - 1)

    def _guesses(self, sequences: list[Sequence], room: int) -> dict[int, Guess]:
        """The model's, of the sequences that a share is left for."""
        if self._drafter is None or room <= 0:
            return {}
        share = min(self._drafter.depth, -(-room // max(1, len(sequences))))
        asked = [(sequence, _most(sequence, share)) for sequence in sequences[:room]]
        asked = [
            (sequence, most)
            for sequence, most in asked
            if most > 0 and self._pool.extend(sequence.pages, len(sequence.tokens) + most)
        ]
        guesses = self._drafter.draft(asked) if asked else []
        return {sequence.id: guess for (sequence, _), guess in zip(asked, guesses, strict=True)}

    def _chosen(self, sequence: Sequence, guess: Guess, most: int) -> tuple[Guess, str]:
        """The model's guess, or what the text has had before."""
        name = "" if self._drafter is None else self._drafter.name
        if not self._lookup or sequence.lookup is None:
            return guess, name
        found = sequence.lookup.draft(sequence.tokens, most)
        if not guess or (len(found) > len(guess) and found[0] == guess[0]):
            return found, "lookup"
        return guess, name


def _most(sequence: Sequence, share: int) -> int:
    """Tokens that a draft may have."""
    end = min(sequence.limit - 1, sequence.state.ends)
    return min(share, end - len(sequence.tokens)) if sequence.drafts else 0


def _forced(sequence: Sequence) -> Guess:
    return tuple(sequence.constraint.forced()) if sequence.constraint is not None and sequence.drafts else ()
