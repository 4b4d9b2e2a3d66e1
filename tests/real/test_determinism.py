"""A request's bits depend on the request alone: tokens and log-probabilities are compared exactly."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from sampan.core.types import SamplingParams, TokenLogprob
from sampan.engine.engine import Engine
from sampan.kernels import _native  # type: ignore[attr-defined]
from sampan.llm import LLM

Engines = Callable[..., Engine]
Answer = list[TokenLogprob]
Request = tuple[list[int], SamplingParams]

GREEDY = SamplingParams(max_tokens=12, temperature=0, logprobs=3, ignore_eos=True)
SAMPLED = SamplingParams(max_tokens=12, temperature=1, seed=7, logprobs=3, ignore_eos=True)
samplings = pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


def alone(engine: Engine, prompt: list[int], sampling: SamplingParams) -> Answer:
    return [event.token for event in engine.stream(prompt, sampling) if event.token is not None]


def together(
    engine: Engine, requests: list[tuple[list[int], SamplingParams]], every: int = 0
) -> list[Answer]:
    """All requests at once; with `every`, one more comes after so many steps."""
    answers: dict[int, Answer] = {}
    waiting = list(requests)
    for step in range(10000):
        while waiting and step >= every * len(answers):
            answers[engine.add(*waiting.pop(0))] = []
        for event in engine.step():
            assert event.token is not None, event.error
            answers[event.request].append(event.token)
        if engine.idle and not waiting:
            break
    assert engine.pool.free == engine.pool.count
    return list(answers.values())


@pytest.fixture(scope="module")
def prompt(llm: LLM, text: str) -> list[int]:
    """Long enough to leave the positions whose activations keep sixteen bits."""
    return llm.tokenizer.encode(text, add_bos=False)[:90]


@pytest.fixture(scope="module")
def expected(engine: Engines, prompt: list[int]) -> dict[int, Answer]:
    """The prompt alone, on one thread, in one chunk."""
    return {id(sampling): alone(engine(), prompt, sampling) for sampling in (GREEDY, SAMPLED)}


@samplings
@pytest.mark.parametrize("threads", [2, 3])
def test_threads(
    engine: Engines, prompt: list[int], expected: dict[int, Answer], sampling: SamplingParams, threads: int
) -> None:
    assert alone(engine(threads), prompt, sampling) == expected[id(sampling)]


@samplings
@pytest.mark.parametrize("rows", [1, 32, 50])
def test_chunks(
    engine: Engines, prompt: list[int], expected: dict[int, Answer], sampling: SamplingParams, rows: int
) -> None:
    assert alone(engine(max_rows=rows), prompt, sampling) == expected[id(sampling)]


@samplings
@pytest.mark.parametrize("others", range(1, 9))
def test_company(
    llm: LLM,
    text: str,
    engine: Engines,
    prompt: list[int],
    expected: dict[int, Answer],
    sampling: SamplingParams,
    others: int,
) -> None:
    words = llm.tokenizer.encode(text, add_bos=False)
    company = [(words[100 + n : 110 + 9 * n], SamplingParams(max_tokens=8, seed=n)) for n in range(others)]
    place = others // 2
    requests = [*company[:place], (prompt, sampling), *company[place:]]
    answers = together(engine(2), requests, every=others % 3)
    assert answers[place] == expected[id(sampling)]


@samplings
def test_a_pool_too_small_for_all(
    engine: Engines, prompt: list[int], expected: dict[int, Answer], sampling: SamplingParams
) -> None:
    """Four requests of 102 tokens in a cache of 192: some give up their pages and start again."""
    answers = together(engine(2, pages=6), [(prompt, sampling)] * 4)
    assert answers == [expected[id(sampling)]] * 4


def test_instruction_sets(engine: Engines, prompt: list[int], expected: dict[int, Answer]) -> None:
    for isa in _native.isas():
        if isa != "scalar":
            assert alone(engine(2, isa), prompt, SAMPLED) == expected[id(SAMPLED)], isa


def test_the_scalar_definition(engine: Engines, prompt: list[int]) -> None:
    few = SamplingParams(max_tokens=2, temperature=1, seed=3, logprobs=3)
    assert alone(engine(2, "scalar"), prompt[:4], few) == alone(engine(), prompt[:4], few)


def test_scores_are_what_the_sampler_reported(
    engine: Engines, prompt: list[int], expected: dict[int, Answer]
) -> None:
    answer = expected[id(SAMPLED)]
    scores = engine(2).score(prompt + [token.token for token in answer])
    assert scores[len(prompt) - 1 :].tolist() == [token.logprob for token in answer]


def test_another_seed_gives_another_text(
    engine: Engines, prompt: list[int], expected: dict[int, Answer]
) -> None:
    other = replace(SAMPLED, seed=8)
    assert alone(engine(), prompt, other) != expected[id(SAMPLED)]
