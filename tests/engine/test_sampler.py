"""The sampler against transformers' logits processors, and its draws against chance."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sampan.core.types import SamplingParams, TokenLogprob
from sampan.engine.sampler import choose, penalised, top_logprobs
from sampan.engine.sequence import Sequence

Floats = np.ndarray
PROMPT = [3, 4, 5]


def sequence(sampling: SamplingParams, seed: int = 0, output: tuple[int, ...] = ()) -> Sequence:
    return Sequence(0, [*PROMPT, *output], len(PROMPT), sampling, seed, 99, frozenset())


def chosen(
    logits: Floats, sampling: SamplingParams, seed: int = 0, output: tuple[int, ...] = ()
) -> TokenLogprob:
    total = float(np.logaddexp.reduce(logits.astype(np.float64)))
    return choose(logits, int(logits.argmax()), total, sequence(sampling, seed, output))


def random_logits(size: int, seed: int = 0, spread: float = 2.0) -> Floats:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def expected(logits: Floats, p: SamplingParams, output: tuple[int, ...] = ()) -> Floats:
    """Transformers' distribution; presence and frequency penalties and the bias as OpenAI defines them."""
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    if p.repetition_penalty != 1:
        ids = torch.tensor([[*PROMPT, *output]])
        scores = RepetitionPenaltyLogitsProcessor(p.repetition_penalty)(ids, scores)
    for token in range(logits.size):
        count = output.count(token)
        scores[0, token] -= p.frequency_penalty * count + p.presence_penalty * (count > 0)
        scores[0, token] += p.logit_bias.get(token, 0.0)
    warpers: list[Any] = [TemperatureLogitsWarper(p.temperature)]
    warpers += [TopKLogitsWarper(p.top_k)] if p.top_k else []
    warpers += [TopPLogitsWarper(p.top_p)] if p.top_p < 1 else []
    warpers += [MinPLogitsWarper(p.min_p)] if p.min_p else []
    scores = LogitsProcessorList(warpers)(torch.tensor([PROMPT]), scores)
    return scores.softmax(-1)[0].numpy()


def assert_by_chance(counts: Floats, probabilities: Floats) -> None:
    """Pearson's chi-square test at four and a half standard deviations; rare cells count as one."""
    assert not counts[probabilities == 0].any()
    mean = probabilities * counts.sum()
    rare = mean < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    mean = np.append(mean[~rare], mean[rare].sum())
    observed, mean = observed[mean > 0], mean[mean > 0]
    statistic, free = np.square(observed - mean) @ (1 / mean), max(len(mean) - 1, 1)
    spread = 2 / (9 * free)  # Wilson and Hilferty's approximation of the quantile
    assert statistic < free * (1 - spread + 4.5 * spread**0.5) ** 3


SAMPLINGS = [
    SamplingParams(),
    SamplingParams(temperature=0.4),
    SamplingParams(temperature=3.0),
    SamplingParams(top_k=5),
    SamplingParams(top_k=100),
    SamplingParams(top_p=0.7),
    SamplingParams(top_p=0.3),
    SamplingParams(top_p=0.0),
    SamplingParams(top_p=1e-6),
    SamplingParams(min_p=0.1),
    SamplingParams(min_p=1.0),
    SamplingParams(temperature=0.8, top_k=8, top_p=0.8, min_p=0.05),
    SamplingParams(temperature=1.7, top_k=12, top_p=0.95),
    SamplingParams(top_p=0.9, min_p=0.2),
    SamplingParams(repetition_penalty=1.6),
    SamplingParams(repetition_penalty=0.7, top_k=6),
    SamplingParams(presence_penalty=1.5, frequency_penalty=0.4),
    SamplingParams(presence_penalty=-1.0, frequency_penalty=-0.5, top_p=0.8),
    SamplingParams(logit_bias={0: 3.0, 7: -100.0, 11: 1.5}, temperature=0.9),
    SamplingParams(
        repetition_penalty=1.3, presence_penalty=0.5, logit_bias={2: 2.0}, temperature=1.2, top_k=9, top_p=0.9
    ),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda p: str({k: v for k, v in vars(p).items() if v}))
def test_draws_follow_the_distribution_of_transformers(sampling: SamplingParams) -> None:
    logits, output = random_logits(20), (1, 1, 6, 9, 6, 1)
    counts = np.zeros(20)
    for seed in range(3000):
        counts[chosen(logits, sampling, seed, output).token] += 1
    assert_by_chance(counts, expected(logits, sampling, output))


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_top_p_looks_past_the_first_candidates_of_a_flat_distribution(temperature: float) -> None:
    logits = random_logits(4000, spread=0.2)
    sampling = SamplingParams(temperature=temperature, top_p=0.9)
    probabilities = expected(logits, sampling)
    assert (probabilities > 0).sum() > 2000
    bins = np.argsort(np.argsort(-logits)) // 250
    counts = np.zeros(16)
    for seed in range(2000):
        token = chosen(logits, sampling, seed).token
        assert probabilities[token] > 0
        counts[bins[token]] += 1
    assert_by_chance(counts, np.bincount(bins, probabilities))


def test_positions_of_one_seed_are_independent_draws() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    draws = [chosen(logits, SamplingParams(), 11, (0,) * n).token for n in range(4001)]
    probabilities = np.exp(logits)
    assert_by_chance(np.bincount(draws, minlength=4), probabilities)
    pairs = np.array(draws[:-1]) * 4 + np.array(draws[1:])
    assert_by_chance(np.bincount(pairs, minlength=16), np.outer(probabilities, probabilities).ravel())


def test_neighbouring_seeds_are_independent_draws() -> None:
    logits = np.zeros(4, np.float32)
    draws = np.array(
        [[chosen(logits, SamplingParams(), seed, (0,) * n).token for n in (0, 1)] for seed in range(4001)]
    )
    for pairs in (draws[:-1, 0] * 4 + draws[1:, 0], draws[:-1, 1] * 4 + draws[1:, 0]):
        assert_by_chance(np.bincount(pairs, minlength=16), np.full(16, 1 / 16))


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(2, 700),
    spread=st.sampled_from([0.1, 1.0, 5.0, 30.0]),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 900),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_draw_is_repeatable_and_among_those_that_pass(
    size: int, spread: float, temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    logits = random_logits(size, seed % 1000, spread)
    sampling = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    token = chosen(logits, sampling, seed)
    assert token == chosen(logits, sampling, seed)
    # A threshold a rounding away from a token's own probability may fall on either side of it.
    loose = replace(sampling, top_p=min(1.0, top_p + 1e-9), min_p=max(0.0, min_p - 1e-9))
    assert expected(logits, loose)[token.token] > 0


@pytest.mark.parametrize(
    "sampling", [SamplingParams(temperature=0), SamplingParams(temperature=2.0, top_k=1)]
)
def test_greedy_takes_the_best_whatever_the_seed(sampling: SamplingParams) -> None:
    logits = random_logits(1000)
    assert {chosen(logits, sampling, seed).token for seed in range(5)} == {int(logits.argmax())}


def test_greedy_takes_the_best_after_penalties_and_bias() -> None:
    logits = np.array([1.0, 4.0, 3.0, 2.0, -9.0, -9.0], np.float32)
    greedy = SamplingParams(temperature=0)
    assert chosen(logits, replace(greedy, logit_bias={1: -100.0}), output=(0,)).token == 2
    assert chosen(logits, replace(greedy, frequency_penalty=0.6), output=(1, 1)).token == 2
    assert chosen(logits, replace(greedy, frequency_penalty=0.4), output=(1, 1)).token == 1
    assert chosen(logits, replace(greedy, repetition_penalty=2.5), output=(1,)).token == 2


def test_ties_go_to_the_lowest_id() -> None:
    logits = np.array([0.0, 2.0, 1.0, 2.0, 2.0], np.float32)
    assert chosen(logits, SamplingParams(temperature=0)).token == 1
    assert {chosen(logits, SamplingParams(top_k=2), seed).token for seed in range(200)} == {1, 3}
    assert [token for token, _ in top_logprobs(logits, 0.0, 4)] == [1, 3, 4, 2]
    assert [token for token, _ in top_logprobs(logits, 0.0, 2)] == [1, 3]


def test_the_repetition_penalty_counts_the_prompt_and_is_that_of_transformers() -> None:
    logits, output = random_logits(20), (7, 7, 12)
    found = penalised(logits, sequence(SamplingParams(repetition_penalty=1.7), output=output))
    ids = torch.tensor([[*PROMPT, *output]])
    theirs = RepetitionPenaltyLogitsProcessor(1.7)(ids, torch.from_numpy(logits)[None])
    np.testing.assert_array_equal(found, theirs[0].numpy())


def test_presence_and_frequency_penalties_count_the_answer_alone() -> None:
    logits = np.zeros(9, np.float32)
    sampling = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25, logit_bias={3: 2.0, 8: -1.0})
    found = penalised(logits, sequence(sampling, output=(7, 7, 7, 8)))
    np.testing.assert_array_equal(found, np.array([0, 0, 0, 2, 0, 0, 0, -1.25, -1.75], np.float32))
    assert not logits.any()


@pytest.mark.parametrize("sampling", SAMPLINGS[:14:3], ids=str)
def test_log_probabilities_are_the_models_before_any_filter(sampling: SamplingParams) -> None:
    logits = random_logits(50)
    token = chosen(logits, replace(sampling, logprobs=50), seed=3)
    theirs = torch.from_numpy(logits).double().log_softmax(-1)
    assert token.logprob == pytest.approx(float(theirs[token.token]), abs=1e-12)
    values, ids = theirs.sort(descending=True)
    assert [id for id, _ in token.top] == ids.tolist()
    np.testing.assert_allclose([value for _, value in token.top], values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [1e-30, 1e-310, 100.0])
def test_extreme_temperatures_are_the_limits_they_tend_to(temperature: float) -> None:
    logits = random_logits(50, spread=30.0)
    tokens = [chosen(logits, SamplingParams(temperature=temperature), seed).token for seed in range(50)]
    if temperature < 1:
        assert set(tokens) == {int(logits.argmax())}
    else:
        assert len(set(tokens)) > 15
