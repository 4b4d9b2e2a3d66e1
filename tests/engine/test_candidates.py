"""The few largest and the weighted draw against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine.candidates import at_least, draw, largest

sizes = st.integers(1, 200) | st.integers(2000, 9000)


def values_of(size: int, levels: int, seed: int) -> np.ndarray:
    """Values with as many ties as there are few `levels`."""
    return np.random.default_rng(seed).integers(-levels, levels + 1, size).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(
    sizes,
    st.sampled_from([0, 1, 9, 300, 10**6]),
    st.integers(0, 99),
    st.integers(1, 80) | st.integers(1, 9000),
)
def test_the_largest_are_the_first_of_all_in_order(size: int, levels: int, seed: int, count: int) -> None:
    values = values_of(size, levels, seed)
    order = np.argsort(-values, kind="stable")
    np.testing.assert_array_equal(largest(values, count), order[:count])


@settings(max_examples=50, deadline=None)
@given(sizes, st.sampled_from([0, 9, 300]), st.integers(0, 99), st.floats(-400, 400))
def test_at_least_a_bound_are_those_in_order(size: int, levels: int, seed: int, bound: float) -> None:
    values = values_of(size, levels, seed)
    order = np.argsort(-values, kind="stable")
    np.testing.assert_array_equal(at_least(values, bound), order[values[order] >= np.float32(bound)])


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(0, 99), st.sampled_from([0.0, 1 - 2**-53]) | st.floats(0, 1, exclude_max=True))
def test_a_draw_never_hits_what_has_no_weight(size: int, seed: int, uniform: float) -> None:
    weights = np.maximum(values_of(size, 9, seed) - 7, 0)
    weights[seed % size] = 1e-30
    assert weights[draw(weights, uniform)] > 0


@pytest.mark.parametrize("size", [5, 64, 97, 256])
def test_even_numbers_draw_each_in_proportion_to_its_weight(size: int) -> None:
    weights = np.random.default_rng(size).random(size).astype(np.float32)
    weights[::3] = 0
    draws = 40000
    counts = np.bincount([draw(weights, (n + 0.5) / draws) for n in range(draws)], minlength=size)
    np.testing.assert_allclose(counts, draws * weights / weights.sum(), atol=2)
