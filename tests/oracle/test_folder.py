"""A folder of safetensors gives transformers' logits: whole, in chunks, token by token and in company."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, DynamicCache

from sampan.core.types import SamplingParams
from sampan.engine.engine import Engine
from sampan.kernels.backend import PAGE

Make = Callable[..., Any]

# Largest difference in parts of the logits' range. Both compute in float32, in another order: measured up to
# 2.6e-6. A prompt without its first token, which moves every position by one, gives 0.4.
NOISE = 1e-5
# A bf16 cache against transformers' with queries, keys, values and probabilities rounded to bf16. A float32
# difference at a rounding boundary then becomes one of 2^-8 in that value: measured up to 9.6e-4, in the
# median row up to 7.4e-5.
ROUNDED, ROUNDED_MEDIAN = 4e-3, 2e-4
# bf16 weights against transformers' linears with every input rounded to bf16, where the same happens: up to
# 2.5e-3, in the median row from 4e-8 to 9.3e-4. Not rounding at all gives a median of 2.3e-3 or more.
INPUTS_MEDIAN = 1.5e-3
LENGTH = 150


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


def rounded_attention(
    _module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _mask: Any, scaling: float,
    **_options: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Causal attention of a whole prompt [1, heads, T, head size], of operands that bf16 can hold.

    A probability is rounded beside the largest score up to its pair of pages (docs/numerics.md).
    """
    k, v = (rounded(x).repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = rounded(q * scaling) @ k.transpose(2, 3)
    scores = scores.masked_fill(torch.ones(scores.shape[2:]).triu(1).bool(), -torch.inf)
    pairs = scores.split(2 * PAGE, dim=-1)
    tops = torch.stack([pair.max(-1).values for pair in pairs], -1).cummax(-1).values
    out, total = torch.zeros_like(q), torch.zeros_like(tops[..., :1])
    for pair, values, top in zip(pairs, v.split(2 * PAGE, dim=2), tops.split(1, dim=-1), strict=True):
        weights, less = torch.exp(pair - top), torch.exp(top - tops[..., -1:])
        out += rounded(weights) @ values * less
        total += weights.sum(-1, keepdim=True) * less
    return (out / total).transpose(1, 2), None


AttentionInterface.register("rounded", rounded_attention)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_bit_has_changed(case: str, dtype: torch.dtype, tiny: Make, native: Make, digest: Make) -> None:
    model = tiny(case, dtype)
    digest(f"folder {case} {dtype}", native(model.files, cache="bf16").logits(model.prompt(LENGTH), 70))


def test_every_row_of_a_prompt_has_the_logits_of_transformers(
    case: str, tiny: Make, native: Make, error: Make
) -> None:
    model = tiny(case)
    prompt = model.prompt(LENGTH)
    assert error(native(model.files).logits(prompt), model.expected(prompt)) < NOISE


def test_f16_weights_are_computed_in_float32(case: str, tiny: Make, native: Make, error: Make) -> None:
    model = tiny(case, torch.float16)
    prompt = model.prompt(LENGTH)
    assert error(native(model.files).logits(prompt), model.expected(prompt)) < NOISE


def test_bf16_weights_round_their_inputs_and_nothing_else(
    case: str, tiny: Make, native: Make, error: Make
) -> None:
    model = tiny(case, torch.bfloat16)
    prompt = model.prompt(LENGTH)
    found, expected = native(model.files).logits(prompt), model.expected(prompt)
    assert error(found, expected) < ROUNDED
    assert np.median(np.abs(found - expected).max(axis=1)) < INPUTS_MEDIAN * np.ptp(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_bf16_cache_rounds_the_operands_of_attention_and_nothing_else(
    case: str, dtype: torch.dtype, tiny: Make, native: Make, error: Make
) -> None:
    model = tiny(case, dtype)
    prompt = model.prompt(LENGTH)
    found = native(model.files, cache="bf16").logits(prompt)
    model.oracle.set_attn_implementation("rounded")
    expected = model.expected(prompt)
    assert error(found, expected) < ROUNDED
    rows = np.abs(found - expected).max(axis=1) / np.ptp(expected)
    assert np.median(rows) < (INPUTS_MEDIAN if dtype is torch.bfloat16 else ROUNDED_MEDIAN)


def test_decoding_token_by_token_goes_on_as_transformers_does(
    case: str, tiny: Make, native: Make, error: Make
) -> None:
    model = tiny(case)
    prompt = model.prompt(70)
    cache = DynamicCache()
    expected = [model.expected(prompt[:25], cache)] + [model.expected([t], cache) for t in prompt[25:]]
    runner = native(model.files)
    sequence = runner.sequence(prompt)
    found = runner.step((sequence, 25)) + [runner.step((sequence, 1))[0] for _ in prompt[25:]]
    runner.pool.release(sequence.pages)
    assert error(np.concatenate(found), np.concatenate(expected)) < NOISE


@pytest.mark.parametrize("chunk", [1, 7, 33, 64])
def test_a_prompt_in_chunks_has_the_same_bits(case: str, chunk: int, tiny: Make, native: Make) -> None:
    model = tiny(case)
    prompt = model.prompt(LENGTH)
    runner = native(model.files)
    assert np.array_equal(runner.logits(prompt, chunk), runner.logits(prompt))


@pytest.mark.parametrize("cache", ["f32", "bf16"])
def test_a_sequence_in_company_has_the_same_bits(case: str, cache: str, tiny: Make, native: Make) -> None:
    model = tiny(case)
    runner = native(model.files, cache=cache)
    prompts = [model.prompt(length, seed=length) for length in (40, 90, LENGTH)]
    alone = [runner.logits(prompt) for prompt in prompts]
    a, b, c = (runner.sequence(prompt) for prompt in prompts)
    found = {id(sequence): [] for sequence in (a, b, c)}
    for work in [[(a, 39)], [(c, 70), (a, 1), (b, 50)], [(b, 1), (c, 79)], [(b, 39), (c, 1)]]:
        for (sequence, _), logits in zip(work, runner.step(*work), strict=True):
            found[id(sequence)].append(logits)
    for sequence, expected in zip((a, b, c), alone, strict=True):
        assert np.array_equal(np.concatenate(found[id(sequence)]), expected)
        runner.pool.release(sequence.pages)


def test_a_folder_of_several_shards_is_read_whole(tiny: Make, native: Make, error: Make) -> None:
    model = tiny("llama", torch.float32, "100KB")
    assert len(list(model.files.path.glob("*.safetensors"))) > 2
    prompt = model.prompt(50)
    assert error(native(model.files).logits(prompt), model.expected(prompt)) < NOISE


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(threads: int, tiny: Make, native: Make) -> None:
    model = tiny("qwen2")
    prompt = model.prompt(LENGTH)
    found = native(model.files, threads=threads).logits(prompt, 64)
    assert np.array_equal(found, native(model.files).logits(prompt))


def test_greedy_answers_are_those_of_transformers(case: str, tiny: Make, native: Make) -> None:
    model = tiny(case)
    runner, eos = native(model.files).runner, 2
    vocabulary = model.oracle.config.vocab_size
    engine = Engine(runner, context=256, vocabulary=vocabulary, eos_ids=frozenset({eos}), max_sequences=4)
    prompt = model.prompt(20)
    answer = model.oracle.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 20),
        max_new_tokens=40,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=0,
    )
    events = list(engine.stream(prompt, SamplingParams(max_tokens=40, temperature=0)))
    tokens = [event.token.token for event in events]
    assert tokens == answer[0, 20:].tolist()
    assert events[-1].finish_reason == ("stop" if tokens[-1] == eos else "length")
    assert engine.pool.free == engine.pool.count
