"""New weights in place: the answers of a model loaded with them, and nothing remembered of the old."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sampan.core.errors import WeightsError
from sampan.core.types import SamplingParams
from sampan.engine.engine import Engine
from sampan.weights.update import from_arrays

Weights = dict[str, np.ndarray]
PROMPT = [5, 17, 3, 60] * 25
GREEDY = SamplingParams(max_tokens=8, temperature=0)


def other(weights: Weights) -> None:
    """Every tensor changed."""
    rng = np.random.default_rng(8)
    for name, value in weights.items():
        weights[name] = value + rng.normal(0, 0.05, value.shape).astype(np.float32)


@pytest.fixture
def changed(make_engine: Callable[..., Engine]) -> tuple[Weights, Engine]:
    """The weights after `other`, and an engine that was loaded with them."""
    found: Weights = {}

    def edit(weights: Weights) -> None:
        other(weights)
        found.update(weights)

    return found, make_engine(edit)


def test_an_update_gives_the_bits_of_a_model_loaded_with_it(
    changed: tuple[Weights, Engine], make_engine: Callable[..., Engine]
) -> None:
    weights, expected = changed
    engine = make_engine()
    before = engine.score(PROMPT)
    assert engine.update_weights(from_arrays(weights)) == 1
    assert np.array_equal(engine.score(PROMPT), expected.score(PROMPT))
    assert not np.array_equal(engine.score(PROMPT), before)


def test_a_part_of_the_weights_can_be_given(
    changed: tuple[Weights, Engine], make_engine: Callable[..., Engine]
) -> None:
    weights, expected = changed
    engine = make_engine()
    names = sorted(weights)
    for number, some in enumerate((names[::2], names[1::2]), 1):
        assert engine.update_weights(from_arrays({name: weights[name] for name in some})) == number
    assert np.array_equal(engine.score(PROMPT), expected.score(PROMPT))


def test_nothing_computed_before_is_found_again(
    changed: tuple[Weights, Engine], make_engine: Callable[..., Engine], finish: Callable[..., Any]
) -> None:
    engine = make_engine()
    for version in range(2):
        for cached in (0, 99):
            request = engine.add(PROMPT, GREEDY)
            events = finish(engine)[request]
            assert {event.weights_version for event in events} == {version}
            assert events[0].cached_tokens == cached
        engine.update_weights(from_arrays(changed[0]))
        assert engine.pool.cached == 0


def test_what_runs_goes_on_with_the_new_weights(
    changed: tuple[Weights, Engine], make_engine: Callable[..., Engine], finish: Callable[..., Any]
) -> None:
    engine = make_engine()
    engine.add(PROMPT, GREEDY)
    events = engine.step() + engine.step() + engine.step()
    engine.update_weights(from_arrays(changed[0]))
    events += next(iter(finish(engine).values()))
    versions = [event.weights_version for event in events]
    assert versions == sorted(versions)
    assert set(versions) == {0, 1}
    engine.add(PROMPT, GREEDY)  # what it computed with both is not shared
    assert next(iter(finish(engine).values()))[0].cached_tokens == 0


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("model.layers.9.mlp.up_proj.weight", np.zeros((96, 64), np.float32), "no place in the model"),
        ("model.layers.1.mlp.up_proj.weight", np.zeros((64, 96), np.float32), r"shape \[64, 96\]"),
        ("model.layers.1.mlp.up_proj.weight", np.full((96, 64), np.nan, np.float32), "not finite"),
        ("model.norm.weight", np.full(64, np.inf, np.float32), "not finite"),
        ("model.norm.weight", np.full(64, 1e300), "not finite"),
        ("model.norm.weight", np.ones(64, np.int64), "int64: give floats"),
    ],
)
def test_an_update_that_is_refused_has_changed_nothing(
    name: str,
    value: np.ndarray,
    what: str,
    changed: tuple[Weights, Engine],
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine()
    before = engine.score(PROMPT)
    with pytest.raises(WeightsError, match=what):
        engine.update_weights(from_arrays(changed[0] | {name: value}))
    assert engine.weights_version == 0
    assert np.array_equal(engine.score(PROMPT), before)
