"""Stored responses: each key sees its own, and has its share whatever others store."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.server.ask import Caller
from sampan.server.openai.responses_store import ResponseStore, Stored

MINE, OTHER = Caller("key-1"), Caller("key-2")


def stored(name: str, size: int = 100) -> Stored:
    """A response of `size` bytes of JSON."""
    document: dict[str, Any] = {"id": name, "output": []}
    least = len('{"id": "", "output": []}') + len(name) + len('[{"text": ""}]') + len("[]")
    return Stored(document, [{"text": "x" * (size - least)}])


def kept(store: ResponseStore, caller: Caller, names: str) -> str:
    return "".join(name for name in names if store.get(caller, name))


def test_a_caller_sees_its_own_responses_only() -> None:
    store = ResponseStore()
    store.put(MINE, stored("a"))
    assert store.get(MINE, "a") == stored("a")
    for caller in (OTHER, Caller()):
        assert store.get(caller, "a") is None
        assert not store.remove(caller, "a")
    assert store.remove(MINE, "a")
    assert store.get(MINE, "a") is None
    assert not store.remove(MINE, "a")


def test_the_store_is_bounded_in_number_and_what_was_asked_for_stays() -> None:
    store = ResponseStore(most=2)
    for name in "ab":
        store.put(MINE, stored(name))
    assert store.get(MINE, "a") is not None
    store.put(MINE, stored("c"))
    assert kept(store, MINE, "abc") == "ac"


def test_the_store_is_bounded_in_bytes() -> None:
    store = ResponseStore(most_bytes=1000)
    for name in "abcdefghij":
        store.put(MINE, stored(name))
    assert kept(store, MINE, "abcdefghij") == "abcdefghij"
    store.put(MINE, stored("k", 250))
    assert kept(store, MINE, "abcdefghijk") == "defghijk"
    store.put(MINE, stored("d"))  # again: it counts once
    store.put(MINE, stored("l", 50))
    assert kept(store, MINE, "abcdefghijkl") == "defghijkl"


def test_one_that_is_too_large_costs_nobody_anything() -> None:
    store = ResponseStore(most_bytes=1000)
    store.put(MINE, stored("a"))
    store.put(MINE, stored("b", 251))
    assert kept(store, MINE, "ab") == "a"


@pytest.mark.parametrize(("size", "bound"), [(100, {"most": 10}), (100, {"most_bytes": 1000})])
def test_a_key_that_stores_on_and_on_pays_for_it_itself(size: int, bound: dict[str, int]) -> None:
    store = ResponseStore(**bound)
    for name in "abcde":
        store.put(MINE, stored(name, size))
    for number in range(100):
        store.put(OTHER, stored(f"r{number}", size))
    assert kept(store, MINE, "abcde") == "abcde"
    assert [f"r{n}" for n in range(100) if store.get(OTHER, f"r{n}")] == [f"r{n}" for n in range(95, 100)]
    store.put(MINE, stored("f", size))
    assert kept(store, MINE, "abcdef") == "bcdef"  # now it has more than the other


KEYS = 4
CALLERS = [Caller(), *(Caller(f"key-{n}") for n in range(KEYS - 1))]
MOST, MOST_BYTES = 40, 8000


@settings(max_examples=300, deadline=None)
@given(
    puts=st.lists(st.tuples(st.integers(1, KEYS - 1), st.integers(70, 3000)), max_size=150),
    modest=st.lists(st.tuples(st.integers(0, 150), st.integers(70, 400)), max_size=MOST // KEYS),
)
def test_who_stores_little_keeps_it(puts: list[tuple[int, int]], modest: list[tuple[int, int]]) -> None:
    """Its share is the bound over the number of keys; the others put what they like, in any order."""
    store = ResponseStore(MOST, MOST_BYTES)
    mine: dict[str, int] = {}
    for moment, (who, size) in enumerate([*puts, (1, 70)]):
        for number, (when, own) in enumerate(modest):
            if when == moment and sum(mine.values()) + own <= MOST_BYTES // KEYS:
                mine[f"mine-{number}"] = own
                store.put(CALLERS[0], stored(f"mine-{number}", own))
        store.put(CALLERS[who], stored(f"other-{moment}", size))
    assert all(store.get(CALLERS[0], name) == stored(name, size) for name, size in mine.items())
    left = [
        len(found.items[0]["text"])
        for moment in range(len(puts) + 1)
        for caller in CALLERS
        if (found := store.get(caller, f"other-{moment}"))
    ]
    assert len(left) + len(mine) <= MOST
    assert sum(left) + sum(mine.values()) <= MOST_BYTES
