"""What the engine promises: its errors, its ends, and that one request cannot spoil another."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sampan.core.errors import ContextOverflow, RequestError
from sampan.core.types import SamplingParams
from sampan.engine.engine import Engine

Make = Callable[..., Any]
GREEDY = SamplingParams(max_tokens=10, temperature=0, logprobs=2)
NOTHING = SamplingParams(max_tokens=0)


def untouched(engine: Engine) -> bool:
    return engine.idle and engine.pool.free == engine.pool.count


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ([5, 97], "token id 97 is outside the vocabulary of 97"),
        ([-1], "token id -1 is outside the vocabulary of 97"),
        ([5, 2**64], "token id 18446744073709551616 is outside"),
        ([5, 10**5000], "token id a value of type int is outside"),
        ([5, 1.5], "token 1 of the prompt is 1.5: give whole numbers"),
        ([float("inf")], "token 0 of the prompt is inf"),
        ([5, None], "token 1 of the prompt is None"),
        (["5"], "token 0 of the prompt is '5'"),
        ([[5]], r"token 0 of the prompt is \[5\]"),
        ([True], "token 0 of the prompt is True"),
        (None, "the prompt is None: give a list of token ids"),
        (7, "the prompt is 7: give a list of token ids"),
        ("ab", "token 0 of the prompt is 'a'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_prompt_that_cannot_be_served_is_refused(make_engine: Make, prompt: Any, message: str) -> None:
    engine = make_engine()
    for ask in (lambda: engine.add(prompt, GREEDY), lambda: engine.score(prompt)):
        with pytest.raises(RequestError, match=message):
            ask()
    assert untouched(engine)


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(make_engine: Make) -> None:
    engine = make_engine(context=100)
    with pytest.raises(ContextOverflow, match="the prompt has 101 tokens, the context holds 100") as caught:
        engine.add([1] * 101, GREEDY)
    assert (caught.value.prompt_tokens, caught.value.context) == (101, 100)
    with pytest.raises(ContextOverflow):
        engine.score([1] * 101)
    assert untouched(engine)


def test_a_prompt_that_fills_the_context_leaves_no_room_for_an_answer(
    make_engine: Make, finish: Make
) -> None:
    engine = make_engine(context=100)
    with pytest.raises(ContextOverflow, match="has 100 tokens, the context holds 100 with the answer"):
        engine.add([1] * 100, GREEDY)
    assert untouched(engine)
    assert len(engine.score([1] * 100)) == 99  # nothing follows it
    fits = engine.add([1] * 99, replace(GREEDY, max_tokens=None))
    assert len(finish(engine)[fits]) == 1


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_a_sequence_that_the_cache_can_never_hold_is_refused(
    make_engine: Make, finish: Make, pages: int
) -> None:
    engine = make_engine(context=500, pages=pages)
    with pytest.raises(ContextOverflow):
        engine.add([1] * (32 * pages), GREEDY)
    assert untouched(engine)
    request = engine.add([1] * (32 * pages - 2), replace(GREEDY, max_tokens=None))
    other = engine.add([1], replace(GREEDY, max_tokens=None))
    events = finish(engine)
    assert events[request][-1].finish_reason == events[other][-1].finish_reason == "length"
    assert len(events[other]) == 32 * pages - 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": -0.01},
        {"top_p": 1.01},
        {"top_k": -1},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"presence_penalty": 2.5},
        {"frequency_penalty": -2.5},
        {"max_tokens": 0},
        {"max_tokens": -3},
        {"logprobs": -1},
        {"logprobs": 98},
        {"logit_bias": {97: 1.0}},
        {"logit_bias": {1: float("nan")}},
        {"logit_bias": {1: float("inf")}},
        {"stop_token_ids": (97,)},
    ],
    ids=str,
)
def test_a_value_outside_its_range_is_refused_by_name(make_engine: Make, wrong: dict[str, Any]) -> None:
    engine = make_engine()
    name = "token id 97" if "97" in str(wrong) and "logprobs" not in wrong else next(iter(wrong))
    with pytest.raises(RequestError, match=name):
        engine.add([1, 2], replace(GREEDY, **wrong))
    assert untouched(engine)


def test_a_refused_request_leaves_those_that_run_alone(make_engine: Make, finish: Make) -> None:
    expected = list(make_engine().stream([1, 2, 3], GREEDY))
    engine = make_engine()
    request = engine.add([1, 2, 3], GREEDY)
    engine.step()
    with pytest.raises(RequestError):
        engine.add([], GREEDY)
    assert finish(engine)[request] == expected[1:]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_fail_only_their_request(
    make_engine: Make, finish: Make, tokens_of: Make, value: float
) -> None:
    def damage(weights: dict[str, np.ndarray]) -> None:
        weights["model.embed_tokens.weight"][50, 7] = value

    # The bias keeps the sampled tokens off the damaged one.
    sampling = replace(GREEDY, logit_bias={50: -100.0})
    prompts = [[n + 1] * (9 + 20 * n) for n in range(4)]
    clean = make_engine()
    alone = [tokens_of(clean.stream(prompt, sampling)) for prompt in prompts]
    engine = make_engine(damage, pages=12)
    requests = [engine.add(prompt, sampling) for prompt in prompts[:2]]
    bad = [engine.add([1, 50, 2], sampling), engine.add([3] * 70 + [50], sampling)]
    requests += [engine.add(prompt, sampling) for prompt in prompts[2:]]
    events = finish(engine)
    for request in bad:
        assert [(e.token, e.finish_reason) for e in events[request]] == [(None, "error")]
        assert "not finite" in str(events[request][0].error)
    assert [tokens_of(events[request]) for request in requests] == alone
    # The pages that held what is not finite serve others.
    again = [engine.add(prompt, sampling) for prompt in prompts]
    events = finish(engine)
    assert [tokens_of(events[request]) for request in again] == alone


def test_scoring_what_is_not_finite_is_an_error_and_frees_the_pages(make_engine: Make) -> None:
    def damage(weights: dict[str, np.ndarray]) -> None:
        weights["model.embed_tokens.weight"][50] = np.nan

    engine = make_engine(damage)
    with pytest.raises(RequestError, match="not finite"):
        engine.score([1, 50, 2])
    assert untouched(engine)


@pytest.mark.parametrize("length", [1, 60, 99])
def test_the_end_of_the_context_ends_an_answer(make_engine: Make, length: int) -> None:
    engine = make_engine(context=100)
    events = list(engine.stream([1] * length, replace(GREEDY, max_tokens=None)))
    assert len(events) == 100 - length
    assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + ["length"]
    assert untouched(engine)


def test_max_tokens_ends_an_answer(make_engine: Make) -> None:
    events = list(make_engine().stream([1, 2], GREEDY))
    assert len(events) == 10
    assert events[-1].finish_reason == "length"


def test_end_of_sequence_and_stop_tokens_end_an_answer(make_engine: Make, tokens_of: Make) -> None:
    tokens = [token.token for token in tokens_of(make_engine().stream([1, 2], GREEDY))]
    at = next(i for i in range(3, 10) if tokens[i] not in tokens[:i])
    stopping = replace(GREEDY, stop_token_ids=(tokens[at],))
    for engine, sampling in [(make_engine(eos=[tokens[at]]), GREEDY), (make_engine(), stopping)]:
        events = list(engine.stream([1, 2], sampling))
        assert [token.token for token in tokens_of(events)] == tokens[: at + 1]
        assert events[-1].finish_reason == "stop"
        assert untouched(engine)
    ignoring = make_engine(eos=[tokens[at]]).stream([1, 2], replace(GREEDY, ignore_eos=True))
    assert len(list(ignoring)) == 10


def test_aborting_frees_pages_at_once(make_engine: Make, finish: Make) -> None:
    engine = make_engine(max_sequences=2)
    running, other, waiting = (engine.add([n] * 40, GREEDY) for n in (1, 2, 3))
    engine.step()
    free = engine.pool.free
    assert engine.abort(waiting)
    assert engine.pool.free == free
    assert engine.abort(running)
    assert engine.pool.free == free + 2
    assert not engine.abort(running)
    assert not engine.abort(12345)
    assert set(finish(engine)) == {other}


def test_closing_a_stream_aborts_it(make_engine: Make) -> None:
    engine = make_engine()
    stream = engine.stream([1] * 40, GREEDY)
    next(stream)
    assert not untouched(engine)
    stream.close()
    assert untouched(engine)


def test_equal_logits_go_to_the_lowest_id(make_engine: Make, tokens_of: Make) -> None:
    def repeat(weights: dict[str, np.ndarray]) -> None:
        weights["lm_head.weight"][:] = weights["lm_head.weight"][5]

    for sampling in (GREEDY, replace(GREEDY, temperature=1.0, top_k=1)):
        tokens = tokens_of(make_engine(repeat).stream([1, 2], sampling))
        assert [token.token for token in tokens] == [0] * 10
        assert [id for id, _ in tokens[0].top] == [0, 1]
        assert tokens[0].logprob == pytest.approx(-np.log(97), abs=1e-6)


def test_logprobs_are_those_of_the_whole_distribution(make_engine: Make, tokens_of: Make) -> None:
    engine = make_engine()
    sampling = replace(GREEDY, temperature=0.7, top_k=5, logprobs=97, seed=1, presence_penalty=1.0)
    for token in tokens_of(engine.stream([1, 2, 3], sampling)):
        ids, values = zip(*token.top, strict=True)
        assert sorted(ids) == list(range(97))
        assert list(values) == sorted(values, reverse=True)
        assert np.exp(values).sum() == pytest.approx(1, abs=1e-6)
        assert dict(token.top)[token.token] == token.logprob


def test_seeds_make_a_draw_repeatable(make_engine: Make, tokens_of: Make) -> None:
    engine = make_engine()
    warm = replace(GREEDY, temperature=1.0)
    seeded = [tokens_of(engine.stream([1, 2], replace(warm, seed=seed))) for seed in (7, 7, 8, -7, 2**70)]
    assert seeded[0] == seeded[1]
    assert len({str(answer) for answer in seeded}) == 4
    assert tokens_of(engine.stream([1, 2], warm)) != tokens_of(engine.stream([1, 2], warm))


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_prompt_that_is_known_is_not_computed_again(make_engine: Make, prefix_cache: bool) -> None:
    engine = make_engine(prefix_cache=prefix_cache)
    prompt = [1 + n % 90 for n in range(100)]
    first, again = (list(engine.stream(prompt, GREEDY)) for _ in range(2))
    assert [event.token for event in again] == [event.token for event in first]
    assert {event.cached_tokens for event in first} == {0}
    assert {event.cached_tokens for event in again} == {99 if prefix_cache else 0}
    assert engine.counters.found == (99 if prefix_cache else 0)
    assert untouched(engine)


def test_answers_to_one_prompt_have_the_bits_that_they_have_alone(
    make_engine: Make, finish: Make, tokens_of: Make
) -> None:
    """Its last page is copied for each of them."""
    prompt = [1 + n % 90 for n in range(50)]
    how = [replace(GREEDY, temperature=1.0, seed=seed) for seed in range(6)]
    alone, together = make_engine(prefix_cache=False), make_engine()
    requests = [together.add(prompt, each) for each in how]
    events = finish(together)
    assert [events[request][0].cached_tokens for request in requests] == [0] + [49] * 5
    assert [tokens_of(events[request]) for request in requests] == [
        tokens_of(alone.stream(prompt, each)) for each in how
    ]


def test_the_callers_list_is_not_kept(make_engine: Make, finish: Make, tokens_of: Make) -> None:
    engine = make_engine()
    expected = tokens_of(engine.stream([1, 2, 3], GREEDY))
    prompt = [1, 2, 3]
    request = engine.add(prompt, GREEDY)
    prompt.clear()
    assert tokens_of(finish(engine)[request]) == expected
    assert prompt == []
