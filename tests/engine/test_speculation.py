"""Drafts change how many steps an answer takes, and not a bit of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sampan.core.types import SamplingParams

Make = Callable[..., Any]
GREEDY = SamplingParams(max_tokens=70, temperature=0, logprobs=2)
PROMPTS = [[1, 2, 3], [5] * 40, [9, 8, 7, 9, 8, 7, 9]]
SAMPLINGS = {
    "greedy": GREEDY,
    "seeded": SamplingParams(max_tokens=70, temperature=0.5, top_k=2, seed=5, logprobs=2),
    "warm": SamplingParams(max_tokens=70, temperature=1.0, top_p=0.5, min_p=0.1, seed=6),
    "penalised": replace(
        GREEDY, repetition_penalty=1.02, presence_penalty=0.1, frequency_penalty=0.02, logit_bias={4: 1.0}
    ),
    "penalised and seeded": SamplingParams(
        max_tokens=70, temperature=0.4, top_k=3, seed=7, frequency_penalty=0.01, repetition_penalty=1.05
    ),
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_answers_are_those_of_plain_decoding(
    make_engine: Make, finish: Make, tokens_of: Make, sampling: SamplingParams
) -> None:
    plain = make_engine(draft_rows=0)
    alone = [tokens_of(plain.stream(prompt, sampling)) for prompt in PROMPTS]
    accepted = 0
    for together in (False, True):
        engine = make_engine(draft_rows=12)
        if together:
            requests = [engine.add(prompt, sampling) for prompt in PROMPTS]
            events = finish(engine)
            answers = [tokens_of(events[request]) for request in requests]
        else:
            answers = [tokens_of(engine.stream(prompt, sampling)) for prompt in PROMPTS]
        assert answers == alone
        accepted += engine.counters.accepted
    assert plain.counters.drafted == 0
    assert accepted > 0


def test_an_end_inside_a_draft_ends_the_answer_there(make_engine: Make, tokens_of: Make) -> None:
    plain = tokens_of(make_engine(draft_rows=0).stream(PROMPTS[0], GREEDY))
    for length in range(1, 70):
        engine = make_engine(draft_rows=16)
        events = list(engine.stream(PROMPTS[0], replace(GREEDY, max_tokens=length)))
        assert tokens_of(events) == plain[:length]
        assert [event.finish_reason for event in events] == [None] * (length - 1) + ["length"]
        assert engine.pool.free == engine.pool.count
    ids = [token.token for token in plain]
    for stop in set(ids):
        engine = make_engine(draft_rows=16, eos=[stop])
        assert tokens_of(engine.stream(PROMPTS[0], GREEDY)) == plain[: ids.index(stop) + 1]


def test_the_end_of_the_context_ends_an_answer(make_engine: Make) -> None:
    engine = make_engine(context=100, draft_rows=16)
    events = list(engine.stream([1] * 40, replace(GREEDY, max_tokens=None)))
    assert len(events) == 60
    assert events[-1].finish_reason == "length"
    assert engine.counters.accepted > 0


def test_a_step_gives_several_tokens_of_one_request_in_order(make_engine: Make) -> None:
    engine = make_engine(draft_rows=8)
    engine.add(PROMPTS[1], GREEDY)
    steps = []
    while not engine.idle:
        steps.append(engine.step())
    assert max(map(len, steps)) > 2
    assert sum(map(len, steps)) == 70
    assert engine.counters.accepted == 70 - len(steps)


def test_prompts_leave_no_room_for_drafts(make_engine: Make, finish: Make) -> None:
    engine = make_engine(draft_rows=8, max_rows=8)
    engine.add(PROMPTS[1], GREEDY)
    while engine.counters.drafted == 0:
        engine.step()
    drafted = engine.counters.drafted
    engine.add([7] * 60, replace(GREEDY, max_tokens=1))
    for _ in range(8):
        engine.step()
    assert engine.counters.drafted == drafted
    finish(engine)


def test_a_damaged_token_in_a_draft_does_not_spoil_the_answer(make_engine: Make, tokens_of: Make) -> None:
    """The prompt suggests token 50, whose embedding is not a number; the answer never takes it."""

    def damage(weights: dict[str, np.ndarray]) -> None:
        weights["model.embed_tokens.weight"][50] = np.nan

    sampling = replace(GREEDY, logit_bias={50: -100.0})
    plain = tokens_of(make_engine(draft_rows=0).stream(PROMPTS[1], sampling))
    engine = make_engine(damage, draft_rows=8)
    request = engine.add(PROMPTS[1], sampling)
    answer = tokens_of(engine.step())
    sequence = engine.scheduler.running[0]
    sequence.lookup.draft = lambda _tokens, most: (50,) * most
    while not engine.idle:
        events = engine.step()
        assert all(event.error is None for event in events)
        answer += tokens_of(events)
    assert request == 0
    assert answer == plain
    assert sequence.lookup is None
