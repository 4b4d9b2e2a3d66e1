"""What a step told of prompts: scores of their tokens, or their vector."""

from collections.abc import Iterable

from sampan.core.types import FinishReason, TokenScore
from sampan.engine.sequence import Event, Sequence


def told_scores(sequence: Sequence, given: Iterable[object]) -> list[Event]:
    """What there is to tell of the prompt's tokens."""
    sequence.scored += [score for score in given if isinstance(score, TokenScore)]
    fresh = tuple(sequence.scored[sequence.told :])
    sequence.told += len(fresh)
    ends: FinishReason | None = "length" if not sequence.generates and sequence.remaining <= 0 else None
    if not fresh and ends is None:
        return []
    return [Event(sequence.id, None, ends, None, sequence.cached_tokens or 0, scores=fresh)]


def told_vector(sequence: Sequence) -> list[Event]:
    """The prompt's vector, once all of it is known."""
    if sequence.remaining > 0 or sequence.pooled is None:
        return []
    vector = sequence.pooled.vector()
    return [Event(sequence.id, None, "length", None, sequence.cached_tokens or 0, vector=vector)]
