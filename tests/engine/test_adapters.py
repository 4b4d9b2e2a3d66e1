"""Adapters in the engine: chosen by request, kept while in use, and no page shared between two of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.core.errors import OutOfMemory, RequestError
from sampan.core.types import SamplingParams
from sampan.engine.engine import Engine
from sampan.engine.sequence import Event
from sampan.kernels.backend import AdapterRoom
from sampan.weights.lora import Lora, read_lora

PROMPT = [5, 17, 3, 60] * 25  # three full pages
GREEDY = SamplingParams(max_tokens=8, temperature=0)


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(room=AdapterRoom(2, 16))


@pytest.fixture
def adapter(engine: Engine, write_adapter: Callable[..., Any], tmp_path: Path) -> Callable[..., Lora]:
    def make(seed: int = 0, **options: Any) -> Lora:
        program = engine.runner.executable
        parts = {p.name: p for s in program.plan.segments.values() for p in s.parts}
        weights = parts | program.plan.vectors
        write_adapter(tmp_path / f"{seed}", {n: w.shape for n, w in weights.items()}, seed=seed, **options)
        return read_lora(tmp_path / f"{seed}", weights)

    return make


def answer(engine: Engine, adapter: int | None = None) -> list[Event]:
    request = engine.add(PROMPT, GREEDY, adapter=adapter)
    events = []
    while not engine.idle:
        events += [event for event in engine.step() if event.request == request]
    return events


def test_requests_of_one_batch_choose_their_own(
    engine: Engine, adapter: Callable[..., Lora], finish: Callable[..., Any], tokens_of: Callable[..., Any]
) -> None:
    one, two = engine.load_adapter(adapter(1)), engine.load_adapter(adapter(2))
    alone = [tokens_of(answer(engine, chosen)) for chosen in (None, one, two)]
    assert len({tuple(t.logprob for t in tokens) for tokens in alone}) == 3
    chosen = [two, None, one, two, None, one]
    requests = [engine.add(PROMPT, GREEDY, adapter=each) for each in chosen]
    events = finish(engine)
    expected = {None: alone[0], one: alone[1], two: alone[2]}
    assert [tokens_of(events[r]) for r in requests] == [expected[each] for each in chosen]


def test_no_page_is_shared_between_adapters(engine: Engine, adapter: Callable[..., Lora]) -> None:
    one, two = engine.load_adapter(adapter(1)), engine.load_adapter(adapter(2))
    for chosen in (None, one, two):
        assert answer(engine, chosen)[0].cached_tokens == 0
    for chosen in (None, one, two):
        assert answer(engine, chosen)[0].cached_tokens == 99


def test_an_adapter_that_is_in_use_stays_until_the_last_request_ends(
    engine: Engine, adapter: Callable[..., Lora], tokens_of: Callable[..., Any]
) -> None:
    one = engine.load_adapter(adapter(1))
    expected, cached = tokens_of(answer(engine, one)), engine.pool.cached
    first, second = (engine.add(PROMPT, GREEDY, adapter=one) for _ in range(2))
    events = engine.step()
    engine.unload_adapter(one)
    with pytest.raises(RequestError, match=f"adapter {one} is not loaded"):
        engine.add(PROMPT, GREEDY, adapter=one)
    engine.abort(second)
    while not engine.idle:
        assert engine.runner.adapters.loaded == 1
        events += engine.step()
    assert tokens_of(event for event in events if event.request == first) == expected
    assert engine.runner.adapters.loaded == 0
    assert cached > 0
    assert engine.pool.cached == 0  # its pages went with it
    assert engine.pool.free == engine.pool.count


def test_an_adapter_that_nobody_uses_is_gone_at_once(engine: Engine, adapter: Callable[..., Lora]) -> None:
    one = engine.load_adapter(adapter(1))
    answer(engine)
    answer(engine, one)
    kept = engine.pool.cached
    engine.unload_adapter(one)
    assert engine.pool.cached == kept // 2
    assert answer(engine)[0].cached_tokens == 99
    again = engine.load_adapter(adapter(1))
    assert again != one
    assert answer(engine, again)[0].cached_tokens == 0
    with pytest.raises(RequestError, match="not loaded"):
        engine.unload_adapter(one)


def test_what_has_no_room_is_refused_with_the_numbers(
    engine: Engine, adapter: Callable[..., Lora], make_engine: Callable[..., Engine]
) -> None:
    with pytest.raises(OutOfMemory, match=r"rank 17.*room for 16"):
        engine.load_adapter(adapter(3, rank=17))
    for seed in (1, 2):
        engine.load_adapter(adapter(seed))
    with pytest.raises(OutOfMemory, match="2 adapters are loaded"):
        engine.load_adapter(adapter(3))
    with pytest.raises(OutOfMemory, match="no room was made"):
        make_engine().load_adapter(adapter(3))


def test_scores_are_those_of_the_adapter(engine: Engine, adapter: Callable[..., Lora]) -> None:
    one = engine.load_adapter(adapter(1))
    tokens = [event.token for event in answer(engine, one) if event.token is not None]
    ids = PROMPT + [token.token for token in tokens]
    found = engine.score(ids, adapter=one)[len(PROMPT) - 1 :]
    assert found.tolist() == [token.logprob for token in tokens]
    assert engine.score(ids)[len(PROMPT) - 1 :].tolist() != found.tolist()


def test_a_preempted_sequence_goes_on_with_its_adapter(
    make_engine: Callable[..., Engine], adapter: Callable[..., Lora], finish: Callable[..., Any],
    tokens_of: Callable[..., Any],
) -> None:  # fmt: skip
    engine = make_engine(room=AdapterRoom(2, 16), pages=6)
    one, two = engine.load_adapter(adapter(1)), engine.load_adapter(adapter(2))
    long = SamplingParams(max_tokens=50, temperature=0, ignore_eos=True)
    prompts = [PROMPT[:40], PROMPT[1:41], PROMPT[2:42]]
    alone = []
    for prompt, chosen in zip(prompts, (one, two, None), strict=True):
        engine.add(prompt, long, adapter=chosen)
        alone.append(tokens_of(next(iter(finish(engine).values()))))
    requests = [engine.add(p, long, adapter=a) for p, a in zip(prompts, (one, two, None), strict=True)]
    events = finish(engine)
    assert engine.counters.preempted > 0
    assert [tokens_of(events[request]) for request in requests] == alone
