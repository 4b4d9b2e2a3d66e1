"""Pages are lent whole, to one holder at a time, and come back."""

from hypothesis import given
from hypothesis import strategies as st

from sampan.engine.blocks import BlockPool


@given(st.integers(0, 20), st.integers(1, 9), st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 60))))
def test_no_page_is_shared_or_lost(count: int, size: int, calls: list[tuple[int, int]]) -> None:
    pool = BlockPool(count, size)
    holders: list[list[int]] = [[], [], [], []]
    for number, tokens in calls:
        pages = holders[number]
        before = list(pages)
        if tokens < 0:
            pool.release(pages)
            assert pages == []
        elif pool.extend(pages, tokens):
            assert pages[: len(before)] == before
            assert len(pages) * size >= tokens
            assert len(pages) == max(len(before), -(-tokens // size))
        else:
            assert pages == before
            assert -(-tokens // size) - len(pages) > pool.free
        held = [page for pages in holders for page in pages]
        assert len(held) == len(set(held)) == count - pool.free
        assert set(held) <= set(range(count))
