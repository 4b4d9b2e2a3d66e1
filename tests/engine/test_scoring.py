"""Scores inside the engine: the bits of scoring alone, whatever is known or runs beside."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sampan.core.errors import RequestError
from sampan.core.types import SamplingParams, Scoring
from sampan.engine.budget import SCORE_ROWS, SUMMED_ROWS
from sampan.engine.engine import Engine
from sampan.engine.sequence import Event

Make = Callable[..., Any]
GREEDY = SamplingParams(max_tokens=10, temperature=0, logprobs=2)
NOTHING = SamplingParams(max_tokens=0)


def untouched(engine: Engine) -> bool:
    return engine.idle and engine.pool.free == engine.pool.count


def test_scores_are_the_samplers_log_probabilities(make_engine: Make, tokens_of: Make) -> None:
    engine = make_engine(context=400)
    sampling = SamplingParams(temperature=1, seed=5, max_tokens=290)
    answer = tokens_of(engine.stream([4, 5, 6], sampling))
    scores = engine.score([4, 5, 6] + [token.token for token in answer])
    assert scores.shape == (292,)
    assert scores[2:].tolist() == [token.logprob for token in answer]
    assert engine.score([9]).shape == (0,)
    assert untouched(engine)


def scored(events: list[Event]) -> list[float]:
    """The scores of a request that was given nothing else."""
    assert [event.finish_reason for event in events] == [*[None] * (len(events) - 1), "length"]
    assert all(event.token is None and event.error is None for event in events)
    return [score.logprob for event in events for score in event.scores]


def test_scoring_without_room_waits_for_it(make_engine: Make, finish: Make) -> None:
    engine = make_engine(pages=4)
    engine.add([1] * 100, replace(GREEDY, max_tokens=5))
    engine.step()
    request = engine.add([1] * 90, NOTHING, scoring=Scoring())
    assert scored(finish(engine)[request]) == make_engine().score([1] * 90).tolist()


@pytest.mark.parametrize("start", [0, 1, 2, 31, 32, 33, 63, 64, 65, 99])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_scores_do_not_depend_on_what_is_known_or_runs_beside(
    make_engine: Make, finish: Make, start: int, prefix_cache: bool
) -> None:
    text = [n * 7 % 97 for n in range(100)]
    expected = make_engine(prefix_cache=False).score(text).tolist()
    engine = make_engine(prefix_cache=prefix_cache, max_rows=48)
    engine.add(text[:70], replace(GREEDY, max_tokens=3))
    how = Scoring(start=start)
    requests = [engine.add(text, NOTHING, scoring=how) for _ in range(3)]
    engine.add(text[::-1], replace(GREEDY, max_tokens=9))
    asked = [engine.add(text, replace(GREEDY, max_tokens=4), scoring=how)]
    events = finish(engine)
    for request in requests:
        assert scored(events[request]) == expected[max(start - 1, 0) :]
    for request in asked:
        found = [score.logprob for event in events[request] for score in event.scores]
        assert found == expected[max(start - 1, 0) :]
        assert len([event for event in events[request] if event.token is not None]) == 4


def test_rows_that_keep_their_logits_run_beside_scores_that_do_not(make_engine: Make, finish: Make) -> None:
    """Rows of both kinds in a step: each request gets what it gets alone."""
    wishes = [
        ([n * 7 % 97 for n in range(40)], NOTHING, Scoring()),
        ([n * 5 % 97 for n in range(30)], NOTHING, Scoring(ranks=True, top=2)),
        ([n * 3 % 97 for n in range(9)], SamplingParams(max_tokens=5, temperature=1, seed=3), Scoring()),
        ([n * 2 % 97 for n in range(20)], replace(GREEDY, temperature=0.8, seed=4), None),
    ]
    alone, engine = [], make_engine(max_rows=128)
    for text, sampling, how in wishes:
        one = make_engine()
        request = one.add(text, sampling, scoring=how)
        alone.append(told(finish(one)[request]))
    requests = [engine.add(text, sampling, scoring=how) for text, sampling, how in wishes]
    events = finish(engine)
    assert [told(events[request]) for request in requests] == alone


def told(events: list[Event]) -> list[Any]:
    """All scores, then all tokens."""
    scores = [score for event in events for score in event.scores]
    return [*scores, *(event.token for event in events if event.token is not None)]


def test_known_scores_are_not_computed_again(make_engine: Make, finish: Make) -> None:
    engine = make_engine(context=400, max_rows=64)
    text = [n * 7 % 97 for n in range(200)]
    first = engine.score(text)
    steps = engine.steps
    again = engine.add([*text[:192], 5, 6], NOTHING, scoring=Scoring())
    found = scored(finish(engine)[again])
    assert engine.steps - steps == 1
    assert found[:191] == first[:191].tolist()
    assert found[191:] == make_engine(context=400).score([*text[:192], 5, 6])[191:].tolist()


def test_a_score_tells_what_it_is_asked_for(make_engine: Make, finish: Make) -> None:
    engine = make_engine()
    text = [n * 7 % 97 for n in range(50)]
    how = Scoring(start=10, top=97, ranks=True, entropy=True, temperature=0.7)
    request = engine.add(text, NOTHING, scoring=how)
    found = [score for event in finish(engine)[request] for score in event.scores]
    assert [score.token for score in found] == text[10:]
    for score in found:
        logprobs = dict(score.top)
        assert len(logprobs) == 97
        assert logprobs[score.token] == pytest.approx(score.logprob, abs=1e-12)
        assert sum(math.exp(value) for value in logprobs.values()) == pytest.approx(1, abs=1e-9)
        entropy = -sum(math.exp(value) * value for value in logprobs.values())
        assert score.entropy == pytest.approx(entropy, abs=1e-9)
        assert score.rank == 1 + sum(value > score.logprob for value in logprobs.values())
    plain = [score.top[0][0] for score in found]
    greedy = engine.add(text, NOTHING, scoring=Scoring(start=10, top=1))
    assert [score.top[0][0] for event in finish(engine)[greedy] for score in event.scores] == plain


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Scoring(start=3), "start is 3: the text has 3 tokens"),
        (Scoring(start=-1), "start is -1"),
        (Scoring(top=98), "top is 98"),
        (Scoring(temperature=0), "temperature is 0"),
        (Scoring(temperature=float("nan")), "temperature is nan"),
    ],
)
def test_a_wish_for_scores_that_makes_no_sense(make_engine: Make, how: Scoring, message: str) -> None:
    engine = make_engine()
    with pytest.raises(RequestError, match=message):
        engine.add([1, 2, 3], NOTHING, scoring=how)
    with pytest.raises(RequestError, match="max_tokens is 0"):
        engine.add([1, 2, 3], NOTHING)
    assert untouched(engine)


@pytest.mark.parametrize(
    ("how", "beside", "alone"),
    [(Scoring(), SUMMED_ROWS, 300), (Scoring(ranks=True), SCORE_ROWS - 1, SCORE_ROWS)],
)
def test_a_long_score_holds_nobody_up(make_engine: Make, how: Scoring, beside: int, alone: int) -> None:
    """A stream beside it gets a token in every step, and such a step scores few enough rows."""
    engine = make_engine(context=900, max_rows=300)
    engine.add([n * 7 % 97 for n in range(880)], NOTHING, scoring=how)
    stream = engine.add([1], replace(GREEDY, max_tokens=3, ignore_eos=True))
    found = []
    while not engine.idle:
        events = engine.step()
        found.append(sum(len(event.scores) for event in events))
        if engine.steps < 3:
            assert stream in {event.request for event in events}
    assert found[:2] == [beside, beside]
    assert max(found) == alone
