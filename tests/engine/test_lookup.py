"""Drafts come from the text's own past, and are worth their rows or stop."""

from hypothesis import given
from hypothesis import strategies as st

from sampan.engine.lookup import Lookup


def best_places(tokens: list[int]) -> set[int]:
    """Where the text went as it goes now: the longest common past of at least two tokens."""
    common = {
        place: next((n for n in range(place) if tokens[place - 1 - n] != tokens[-1 - n]), place)
        for place in range(2, len(tokens))
    }
    most = max(common.values(), default=0)
    return {place for place, n in common.items() if n == most >= 2}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 6))
def test_a_draft_is_what_followed_the_longest_match(tokens: list[int], most: int) -> None:
    draft = Lookup().draft(tokens, most)
    places = best_places(tokens)
    assert bool(draft) == bool(places)
    if places:
        place = max(places)  # the latest
        assert len(draft) == min(most, 4)
        grown = list(tokens)
        for at, token in enumerate(draft):
            assert token == grown[place + at]
            grown.append(token)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(0, 8))
def test_a_growing_text_is_indexed_as_if_it_had_come_at_once(tokens: list[int], step: int) -> None:
    growing = Lookup()
    for end in range(1, len(tokens), step + 1):
        growing.draft(tokens[:end], 4)
    assert growing.draft(tokens, 4) == Lookup().draft(tokens, 4)


def test_a_new_text_has_no_draft() -> None:
    assert Lookup().draft(list(range(100)), 8) == ()
    assert Lookup().draft([7], 8) == ()
    assert Lookup().draft([7, 7], 8) == ()


def test_a_draft_goes_on_past_the_end_of_a_loop() -> None:
    lookup = Lookup()
    lookup.learn(1, 1)
    assert lookup.draft([9, 5, 6, 5, 6], 8) == (5, 6, 5, 6, 5, 6, 5, 6)


def test_drafts_grow_while_they_hold_and_shrink_when_they_fail() -> None:
    lookup = Lookup()
    text = [1, 2, 3] * 50

    def drafted(held: float) -> int:
        length = len(lookup.draft(text, 100))
        lookup.learn(length, int(length * held))
        return length

    assert [drafted(1) for _ in range(5)] == [4, 8, 16, 32, 32]
    assert [drafted(0.5) for _ in range(5)] == [32, 16, 8, 4, 4]


def test_vain_drafts_rest_longer_each_time_until_one_holds() -> None:
    lookup = Lookup()
    text = [1, 2, 3] * 50

    def rest(held: int) -> int:
        """Steps without a draft after one of which so much held."""
        lookup.learn(1, held)
        return next(n for n in range(1000) if lookup.draft(text, 1))

    assert rest(0) == 0  # one failure is nothing yet
    assert [rest(0) for _ in range(6)] == [4, 8, 16, 32, 64, 64]
    assert rest(1) == 0
    assert [rest(0) for _ in range(2)] == [0, 4]
