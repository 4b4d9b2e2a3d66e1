"""Walks through a compiled grammar, before anybody follows it: what would stop an answer is found here.

They are the same for the same grammar. Each keeps to another habit, for what is hard to follow is reached by
one text and not by another.
"""

import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from sampan.text.grammar.vocabulary import Vocabulary

STEPS = 64
LEAST, MOST = 4, 32  # walks; more than the least only where they cost next to nothing
ENOUGH_S = 0.01
_HABITS = ("any", "any", "repeat", "quote")
TOO_SLOW = "its next tokens take too long to find: make it simpler"


def walk(start: "LLMatcher", number: int, vocabulary: "Vocabulary", end: float) -> str:
    """What stopped a walk, as llguidance says it or `TOO_SLOW`; nothing where all went well.

    `number`: which walk. `end`: this thread's processor time by which it must have ended.
    """
    matcher, rng, habit = start.deep_copy(), random.Random(number), _HABITS[number % len(_HABITS)]
    last: int | None = None
    for _ in range(STEPS):
        mask = matcher.compute_bitmask()
        if time.thread_time() > end:
            return TOO_SLOW
        if matcher.is_error() or matcher.is_stopped():
            break
        liked = None
        if habit == "repeat":
            liked = last
        elif habit == "quote" and last != vocabulary.quote:  # they end JSON's texts
            liked = vocabulary.quote
        last = liked if liked is not None and _allows(mask, liked) else _any(mask, vocabulary.ends, rng)
        if last is None:
            break
        matcher.consume_token(last)
    return matcher.get_error() if matcher.is_error() else ""


def _any(mask: bytes, ends: frozenset[int], rng: random.Random) -> int | None:
    """A token that a mask allows and that ends nothing."""
    bits = int.from_bytes(mask, "little")
    for token in ends:
        bits &= ~(1 << token)
    skipped = rng.randrange(8 * len(mask))
    rest = bits >> skipped
    if not rest:
        rest, skipped = bits, 0
    return skipped + (rest & -rest).bit_length() - 1 if rest else None


def _allows(mask: bytes, token: int) -> bool:
    return bool(mask[token >> 3] >> (token & 7) & 1)
