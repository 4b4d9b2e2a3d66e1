"""Pages are lent whole; full ones are shared by those with the same text before them, and by nobody else."""

from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.engine.blocks import BlockPool

Check = Callable[..., None]


@given(st.integers(0, 20), st.integers(1, 9), st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 60))))
def test_no_page_is_shared_or_lost(count: int, size: int, calls: list[tuple[int, int]]) -> None:
    pool = BlockPool(count, size)
    holders = [array("i") for _ in range(4)]
    for number, tokens in calls:
        pages = holders[number]
        before = list(pages)
        if tokens < 0:
            pool.release(pages)
            assert list(pages) == []
        elif pool.extend(pages, tokens):
            assert list(pages[: len(before)]) == before
            assert len(pages) * size >= tokens
            assert len(pages) == max(len(before), -(-tokens // size))
        else:
            assert list(pages) == before
            assert -(-tokens // size) - len(pages) > pool.free
        held = [page for pages in holders for page in pages]
        assert len(held) == len(set(held)) == count - pool.free
        assert set(held) <= set(range(count))


class Holder:
    """A text on its way through a pool: pages found, then pages computed."""

    def __init__(self, pool: BlockPool, text: bytes) -> None:
        self.pool = pool
        self.blocks = [text[at : at + 1] for at in range(len(text))]  # one token is a block here
        self.pages = array("i")
        self.done = 0

    def find(self) -> None:
        found = self.pool.match(self.blocks)
        free = self.pool.free_without(found)
        self.pool.hold(found)
        assert self.pool.free == free
        self.pages.extend(found)
        self.done = len(found)

    def compute(self, memory: list[bytes]) -> None:
        """One more block, if a page is free: what lies in it depends on all the text before."""
        if self.done < len(self.blocks) and self.pool.extend(self.pages, self.done + 1):
            memory[self.pages[self.done]] = b"".join(self.blocks[: self.done + 1])
            self.pool.publish(self.pages, self.done, self.blocks[self.done])
            self.done += 1


texts = st.binary(max_size=6).map(lambda b: bytes(x % 2 for x in b))


@given(
    st.integers(0, 12),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["start", "compute", "end"]), texts)),
)
def test_whoever_finds_a_page_finds_his_own_text(
    check_pool: Check, count: int, calls: list[tuple[int, str, bytes]]
) -> None:
    pool = BlockPool(count, 1)
    memory = [b""] * count
    holders: dict[int, Holder] = {}
    for number, call, text in calls:
        if call == "start" and number not in holders:
            holders[number] = Holder(pool, text)
            holders[number].find()
        elif call == "compute" and number in holders:
            holders[number].compute(memory)
        elif call == "end" and number in holders:
            pool.release(holders.pop(number).pages)
        check_pool(pool, [holder.pages for holder in holders.values()])
        for holder in holders.values():
            text = b"".join(holder.blocks)
            assert [memory[page] for page in holder.pages] == [text[: n + 1] for n in range(holder.done)]


def filled(pool: BlockPool, *texts: str) -> list[Any]:
    """Pages of each text, a letter a page, all held."""
    held: list[Any] = []
    for text in texts:
        holder = Holder(pool, text.encode())
        holder.find()
        for _ in text:
            holder.compute([b""] * pool.count)
        held.append(holder.pages)
    return held


def known(pool: BlockPool, text: str) -> int:
    return len(pool.match([bytes([letter]) for letter in text.encode()]))


def test_equal_texts_share_and_different_ones_do_not() -> None:
    pool = BlockPool(10, 1)
    first, second, other = filled(pool, "abc", "abd", "xbc")
    assert list(first[:2]) == list(second[:2])
    assert len({*first, *second, *other}) == 7
    assert pool.free == 3


def test_two_who_computed_the_same_end_up_with_one_page() -> None:
    pool = BlockPool(4, 1)
    pair = [Holder(pool, b"ab") for _ in range(2)]
    for _ in range(2):
        for holder in pair:
            holder.compute([b""] * 4)
    assert pair[0].pages == pair[1].pages
    assert pool.free == 2


def test_the_least_recently_used_text_goes_first_and_from_its_end() -> None:
    pool = BlockPool(6, 1)
    for pages in filled(pool, "abc", "xyz"):
        pool.release(pages)
    for pages in filled(pool, "a"):  # abc's first page was used last
        pool.release(pages)
    taken = array("i")
    left = []
    for tokens in range(1, 7):
        assert pool.extend(taken, tokens)
        left.append((known(pool, "abc"), known(pool, "xyz")))
    assert left == [(2, 3), (1, 3), (1, 2), (1, 1), (1, 0), (0, 0)]
    assert pool.cached == 0


def test_held_pages_are_never_taken() -> None:
    pool = BlockPool(3, 1)
    (held,) = filled(pool, "ab")
    more = array("i")
    assert not pool.extend(more, 2)
    assert pool.extend(more, 1)
    assert known(pool, "ab") == 2
    assert not set(more) & set(held)


@pytest.mark.parametrize("reuse", [True, False])
def test_nothing_is_found_where_reuse_is_off(reuse: bool) -> None:
    pool = BlockPool(5, 1, reuse=reuse)
    for pages in filled(pool, "abc"):
        pool.release(pages)
    assert known(pool, "abc") == (3 if reuse else 0)
    assert pool.free == 5


def test_a_page_is_found_by_what_begins_it_until_it_is_needed_or_forgotten() -> None:
    pool = BlockPool(3, 4)
    pages = array("i")
    pool.extend(pages, 6)
    pool.publish(pages, 0, b"saltabcd")
    pool.publish_tail(pages, 1, b"ef")
    key, last = pool.key(pages, 1, b"ef"), pages[1]
    assert pool.tail(key) == last
    assert pool.tail((key[0], b"e")) is None
    pool.release(pages)
    assert (pool.tail(key), pool.free) == (last, 3)
    pool.forget(b"other")
    assert pool.tail(key) == last
    pool.forget(b"salt")  # which the page before it begins with
    assert (pool.tail(key), pool.free, pool.cached) == (None, 3, 0)
    pool.extend(pages, 1)
    pool.publish_tail(pages, 0, b"saltx")
    assert pool.tail((0, b"saltx")) == pages[0]
    pool.release(pages)
    pool.extend(pages, 12)
    assert pool.tail((0, b"saltx")) is None
