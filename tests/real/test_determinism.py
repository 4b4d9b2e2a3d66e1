"""A request's bits depend on the request alone: tokens and log-probabilities are compared exactly."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from sampan.core.types import SamplingParams, TokenLogprob
from sampan.engine.engine import Engine
from sampan.engine.runner import Runner
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.llm import LLM

Engines = Callable[..., Engine]
Answer = list[TokenLogprob]
Request = tuple[list[int], SamplingParams]

GREEDY = SamplingParams(max_tokens=12, temperature=0, logprobs=3, ignore_eos=True)
SAMPLED = SamplingParams(max_tokens=12, temperature=1, seed=7, logprobs=3, ignore_eos=True)
samplings = pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
MIXED = [
    GREEDY,
    SAMPLED,
    SamplingParams(temperature=0),
    SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, seed=1),
    SamplingParams(temperature=0.7, top_p=0.9, seed=2, logprobs=0),
    SamplingParams(temperature=0, repetition_penalty=1.2, frequency_penalty=0.3, logprobs=1),
    SamplingParams(temperature=1.2, min_p=0.1, presence_penalty=0.5, logit_bias={198: 2.0}, seed=3),
]
BATCHES = [*range(1, 11), 15, 16, 17, 31, 32, 33, 63, 64]
BUSY = pytest.mark.filterwarnings("ignore:.*wait for each other")  # more threads than cores, on purpose


def alone(engine: Engine, prompt: list[int], sampling: SamplingParams) -> Answer:
    return [event.token for event in engine.stream(prompt, sampling) if event.token is not None]


def together(engine: Engine, requests: Iterable[Request], every: int = 0) -> list[Answer]:
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
def on(llm: LLM) -> Callable[..., Engine]:
    """An engine of its own on a runner that exists; without cache hits and drafts unless asked for."""

    def make(runner: Runner, prefix_cache: bool = False, draft_rows: int = 0) -> Engine:
        return Engine(
            runner,
            context=1024,
            vocabulary=llm.config.vocab,
            eos_ids=llm.tokenizer.eos_ids,
            max_sequences=64,
            prefix_cache=prefix_cache,
            draft_rows=draft_rows,
        )

    return make


@pytest.fixture(scope="module")
def runner(engine: Engines) -> Runner:
    """On one thread."""
    return engine(pages=160).runner


@pytest.fixture(scope="module")
def runner2(engine: Engines) -> Runner:
    """On two threads."""
    return engine(2, pages=160).runner


@pytest.fixture(scope="module")
def words(llm: LLM, text: str) -> list[int]:
    return llm.tokenizer.encode(text, add_bos=False)


@pytest.fixture(scope="module")
def prompt(words: list[int]) -> list[int]:
    """Long enough to leave the positions whose activations keep sixteen bits."""
    return words[:90]


@pytest.fixture(scope="module")
def expected(runner: Runner, on: Engines, prompt: list[int]) -> dict[int, Answer]:
    """The prompt alone, on one thread, in one chunk."""
    return {id(sampling): alone(on(runner), prompt, sampling) for sampling in (GREEDY, SAMPLED)}


@pytest.fixture(scope="module")
def crowd(words: list[int]) -> list[Request]:
    """Sixty-four requests of one to a hundred tokens, each with its own sampling; many begin alike."""
    lengths = [90, *(1 + n * n % 17 for n in range(1, 62)), 66, 100]
    starts = [0 if n % 3 == 0 else 7 * n for n in range(64)]
    return [
        (words[start : start + length], replace(MIXED[n % len(MIXED)], max_tokens=6, ignore_eos=True))
        for n, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]


@pytest.fixture(scope="module")
def singly(runner: Runner, on: Engines, crowd: list[Request]) -> list[Answer]:
    """Each of them alone, on one thread."""
    return [alone(on(runner), *request) for request in crowd]


@BUSY
@samplings
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(
    engine: Engines, prompt: list[int], expected: dict[int, Answer], sampling: SamplingParams, threads: int
) -> None:
    assert alone(engine(threads), prompt, sampling) == expected[id(sampling)]


@samplings
@pytest.mark.parametrize("rows", [1, 32, 50])
def test_chunks(
    engine: Engines, prompt: list[int], expected: dict[int, Answer], sampling: SamplingParams, rows: int
) -> None:
    assert alone(engine(2, max_rows=rows), prompt, sampling) == expected[id(sampling)]


@pytest.mark.parametrize("size", BATCHES)
def test_batches(runner2: Runner, on: Engines, crowd: list[Request], singly: list[Answer], size: int) -> None:
    """The last `size` of the crowd beside each other, all at once or one after another."""
    every = (0, 0, 1, 2)[size % 4] if size < 20 else 0
    assert together(on(runner2), crowd[-size:], every) == singly[-size:]


@pytest.mark.parametrize("size", [5, 64])
def test_batches_on_one_thread(
    runner: Runner, on: Engines, crowd: list[Request], singly: list[Answer], size: int
) -> None:
    assert together(on(runner), crowd[:size]) == singly[:size]


@samplings
@pytest.mark.parametrize("common", [31, 32, 33, 64, 65, 89, 90])
def test_cache_hits(
    runner2: Runner,
    on: Engines,
    words: list[int],
    prompt: list[int],
    expected: dict[int, Answer],
    sampling: SamplingParams,
    common: int,
) -> None:
    """After a request that begins with the same `common` tokens and goes on differently."""
    own = on(runner2, prefix_cache=True)
    alone(own, prompt[:common] + words[500:520], GREEDY)
    before = own.counters.found
    assert alone(own, prompt, sampling) == expected[id(sampling)]
    assert own.counters.found - before == min(common, 89) // 32 * 32


def test_a_conversation_finds_its_own_answers(
    runner2: Runner, on: Engines, prompt: list[int], words: list[int]
) -> None:
    """The second turn's prompt holds the first one's answer, whose pages were filled while decoding."""
    own = on(runner2, prefix_cache=True, draft_rows=8)
    first = alone(own, prompt, replace(GREEDY, max_tokens=50))
    turn = [*prompt, *(token.token for token in first), *words[300:310]]
    assert alone(own, turn, SAMPLED) == alone(on(runner2), turn, SAMPLED)
    assert own.counters.found == 4 * 32


@samplings
@pytest.mark.parametrize("prefix_cache", [False, True])
def test_a_pool_too_small_for_all(
    engine: Engines,
    on: Engines,
    words: list[int],
    prompt: list[int],
    expected: dict[int, Answer],
    sampling: SamplingParams,
    prefix_cache: bool,
) -> None:
    """Requests of 58 to 102 tokens in a cache of 192: some give up their pages and start again."""
    own = on(engine(2, pages=6).runner, prefix_cache)
    others = [(words[start : start + 58], SAMPLED) for start in (100, 200)]
    answers = together(own, [others[0], (prompt, sampling), others[1], (prompt, sampling)])
    assert answers[1] == answers[3] == expected[id(sampling)]
    assert answers[0] == alone(own, *others[0])
    assert own.counters.preempted > 0


@pytest.mark.parametrize("sampling", MIXED, ids=range(len(MIXED)))
def test_speculation(
    llm: LLM, runner: Runner, runner2: Runner, on: Engines, words: list[int], sampling: SamplingParams
) -> None:
    text = llm.tokenizer.decode(words[:30])
    ask = [{"role": "user", "content": f"Repeat this ten times: {text}"}]
    prompt = llm.encode(llm.prompt(ask), templated=True) + words[:30] * 2 + words[:10]
    long = replace(sampling, max_tokens=24, ignore_eos=True)
    plain = alone(on(runner), prompt, long)
    for rows in (4, 24):
        own = on(runner2, draft_rows=rows)
        assert alone(own, prompt, long) == plain
        assert own.counters.drafted > 0
    assert own.counters.accepted > 0 or sampling.temperature > 1 or sampling.frequency_penalty > 0


@pytest.mark.parametrize("every", [0, 2])
def test_everything_at_once(
    engine: Engines, runner: Runner, on: Engines, words: list[int], every: int
) -> None:
    """Two threads, small chunks, hits, drafts, and a pool so small that requests give way to older ones."""
    own = on(engine(2, pages=7, max_rows=40).runner, prefix_cache=True, draft_rows=12)
    requests = [
        (words[: 84 + n], replace(MIXED[n % len(MIXED)], max_tokens=12, ignore_eos=True)) for n in range(9)
    ]
    answers = together(own, requests, every)
    assert answers == [alone(on(runner), *request) for request in requests]
    assert own.counters.found > 0
    assert own.counters.drafted > 0
    assert own.counters.preempted > 0


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


@pytest.mark.parametrize("isa", [None, "scalar"])
def test_no_bit_has_changed(llm: LLM, engine: Engines, text: str, isa: str | None) -> None:
    """Log-probabilities of 96 tokens as they were before the graph was there, and of an answer to them."""
    ids = llm.tokenizer.encode(text)[:96]
    one = engine(isa=isa)
    found = one.score(ids).tobytes()
    for chosen in alone(one, ids, replace(GREEDY, logprobs=20)):
        found += repr((chosen.token, chosen.logprob, chosen.top)).encode()
    assert hashlib.sha256(found).hexdigest()[:24] == "78b89da92075cd712217fc65"
