"""Drafts by prompt lookup: what followed the last time that the text went as it goes now.

(Saxena, "Prompt Lookup Decoding", 2023.) An index of token pairs leads to earlier places that end in the same
two tokens; the one with the longest common past wins, the latest among equals. A draft costs a few rows of a
step and changes nothing but speed, so the question is how many rows it is worth: the length doubles while
drafts hold, falls to what held when one fails, and after two vain drafts it rests, longer each time.
"""

from array import array
from collections.abc import Sequence

_SHORTEST = 4  # tokens of a draft, to begin with and after a failure
_LONGEST = 32
_PLACES = 8  # earlier places looked at
_PAST = 8  # tokens compared before each of them
_VAIN = 2  # drafts in a row of which nothing holds, before a rest
_LONGEST_REST = 64


class Lookup:
    """The index of one growing text, and how well its drafts have done."""

    def __init__(self) -> None:
        self.length = _SHORTEST
        self._latest: dict[tuple[int, int], int] = {}
        self._before = array("i", (0, 0))
        self._vain = 0
        self._rest = 0

    def draft(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """At most `most` tokens that may follow `tokens`, which may only grow from call to call."""
        if self._rest > 0:
            self._rest -= 1
            return ()
        self._index(tokens)
        place = self._best_place(tokens)
        if place == 0:
            return ()
        period = len(tokens) - place  # a draft that reaches the text's end goes on with itself
        return tuple(tokens[place + i % period] for i in range(min(most, self.length)))

    def learn(self, drafted: int, accepted: int) -> None:
        """How many tokens of the last draft held."""
        if accepted == drafted:
            self.length = min(2 * self.length, _LONGEST)
        else:
            self.length = max(accepted, _SHORTEST)
        self._vain = 0 if accepted else self._vain + 1
        if self._vain >= _VAIN:
            self._rest = min(2**self._vain, _LONGEST_REST)

    def _index(self, tokens: Sequence[int]) -> None:
        """`_latest` place after each pair, and for each place the one `_before` it after the same pair."""
        for place in range(len(self._before), len(tokens)):
            pair = tokens[place - 2], tokens[place - 1]
            self._before.append(self._latest.get(pair, 0))
            self._latest[pair] = place

    def _best_place(self, tokens: Sequence[int]) -> int:
        """The place whose past is most like the text's; 0 when its last pair is new."""
        end = len(tokens)
        place = self._latest.get((tokens[-2], tokens[-1]), 0) if end > 2 else 0
        best, longest = 0, 1
        for _ in range(_PLACES):
            if place == 0:
                break
            common = _common(tokens, place)
            if common > longest:
                best, longest = place, common
            place = self._before[place]
        return best


def _common(tokens: Sequence[int], place: int) -> int:
    """How many tokens before `place` are the text's last ones, counted up to a limit."""
    most = min(place, _PAST)
    return next((n for n in range(most) if tokens[place - 1 - n] != tokens[-1 - n]), most)
