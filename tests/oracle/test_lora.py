"""Adapters give the logits of the merged weights W + scale * B A, whatever else is in the batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sampan.kernels.backend import AdapterRoom
from sampan.weights.lora import read_lora

Make = Callable[..., Any]
# Both compute in float32, in another order, the oracle with W + scale * B A rounded: measured up to 4e-6.
NOISE = 2e-5
LENGTH = 100
ROOM = AdapterRoom(4, 20)
KINDS: dict[str, dict[str, Any]] = {
    "all linears": {"scale": 2.0},
    "attention": {"targets": ("q_proj", "v_proj"), "rank": 20, "alpha": 10, "scale": 0.5},
    "rank-stabilised": {"rank": 9, "alpha": 5, "use_rslora": True, "scale": 5 / 3},
    "float16": {"dtype": np.float16, "alpha": 3, "scale": 0.75},
    "down": {"targets": ("down_proj",), "scale": 2.0, "layers_to_transform": None},
}


@pytest.fixture
def loaded(adapted: Make, tiny: Make) -> Make:
    return lambda case, **options: adapted(tiny(case), ROOM, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["llama", "llama-biased", "qwen2", "qwen3", "llama-odd"])
def test_an_adapter_gives_the_logits_of_merged_weights(
    case: str, kind: str, loaded: Make, error: Make, tiny: Make
) -> None:
    runner, adapter, merged = loaded(case, **KINDS[kind])
    prompt = merged.prompt(LENGTH)
    found = runner.logits(prompt, adapter=adapter)
    assert error(found, merged.expected(prompt)) < NOISE
    assert error(found, tiny(case).expected(prompt)) > 0.05  # it does change the answer


def test_every_sequence_of_a_batch_has_its_own(loaded: Make, native: Make, tiny: Make) -> None:
    """Rows with and without adapters, decoded and read together, have the bits that each gets alone; those
    without have the bits of a program that has no room for any."""
    runner, first, _ = loaded("qwen3", **KINDS["all linears"])
    _, second, _ = loaded("qwen3", seed=1, **KINDS["attention"])
    _, third, _ = loaded("qwen3", seed=2, **KINDS["rank-stabilised"])
    prompts = [tiny("qwen3").prompt(LENGTH, seed=seed) for seed in range(5)]
    adapters = [0, first, second, first, third]
    pairs = list(zip(prompts, adapters, strict=True))
    alone = [runner.logits(prompt, adapter=adapter) for prompt, adapter in pairs]
    assert np.array_equal(alone[0], native(tiny("qwen3").files).logits(prompts[0]))
    sequences = [runner.sequence(prompt, adapter) for prompt, adapter in pairs]
    found: list[list[np.ndarray]] = [[] for _ in prompts]
    for counts in [(30, 1, 40, 64, 5), (1, 1, 1, 1, 1), (69, 98, 59, 35, 94)]:
        work = [(sequence, count) for sequence, count in zip(sequences, counts, strict=True)]
        for place, logits in enumerate(runner.step(*work)):
            found[place].append(logits)
    for sequence, parts, expected in zip(sequences, found, alone, strict=True):
        assert np.array_equal(np.concatenate(parts), expected)
        runner.pool.release(sequence.pages)


def test_rows_beside_an_adapter_keep_the_bits_of_bf16_products(
    adapted: Make, native: Make, tiny: Make
) -> None:
    """Gate, up and SwiGLU are computed apart in such a step, in one instruction otherwise."""
    model = tiny("llama", torch.bfloat16)
    runner, adapter, _ = adapted(model, ROOM, scale=2.0)
    prompt = model.prompt(LENGTH)
    plain, other = runner.sequence(prompt), runner.sequence(prompt, adapter)
    found, changed = runner.step((plain, LENGTH), (other, LENGTH))
    assert np.array_equal(found, native(model.files).logits(prompt))
    assert not np.array_equal(changed, found)
    for sequence in (plain, other):
        runner.pool.release(sequence.pages)


def test_threads_and_chunks_change_no_bit(loaded: Make, native: Make, tiny: Make, tmp_path: Path) -> None:
    runner, adapter, merged = loaded("llama", **KINDS["all linears"])
    prompt = merged.prompt(LENGTH)
    expected = runner.logits(prompt, adapter=adapter)
    assert np.array_equal(runner.logits(prompt, 7, adapter), expected)
    three = native(tiny("llama").files, threads=3, room=ROOM)
    again = read_lora(tmp_path / "0", three.weights)
    other = three.runner.adapters.load(again)
    assert np.array_equal(three.logits(prompt, 33, other), expected)
