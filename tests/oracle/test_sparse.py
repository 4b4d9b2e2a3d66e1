"""Mixtures of experts and latent attention on the native kernels: transformers' logits, and the same bits
whatever runs beside them (`test_torch.py` has the other backend)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sampan.core.settings import Settings
from sampan.engine.sequence import Span
from sampan.kernels.cpu import _native
from sampan.kernels.cpu.backend import CpuBackend

Make = Callable[..., Any]
NOISE, LENGTH = 1e-5, 150


def test_the_native_kernels_have_them_too(sparse_case: str, tiny: Make, native: Make, error: Make) -> None:
    model = tiny(sparse_case)
    prompt = model.prompt(LENGTH)
    whole = native(model.files).logits(prompt)
    assert error(whole, model.expected(prompt)) < NOISE
    for chunk in (40, 1):
        assert np.array_equal(native(model.files).logits(prompt, chunk), whole)
    here = native(model.files)
    sequence = here.sequence(prompt)
    assert here.pool.extend(sequence.pages, 40)
    rows = here.runner.rows([Span(sequence, 0, 40, sample=False)])  # a chunk that nothing is sampled of
    assert rows.logits.shape[0] == 0
    here.pool.release(sequence.pages)


def test_a_row_has_its_bits_in_any_company(sparse_case: str, tiny: Make, native: Make) -> None:
    model = tiny(sparse_case, torch.bfloat16)
    prompts = [model.prompt(length, seed=length) for length in (70, 33, 5)]
    alone = [native(model.files, cache="bf16", threads=2).logits(prompt) for prompt in prompts]
    here = native(model.files, cache="bf16")
    a, b, c = (here.sequence(prompt) for prompt in prompts)
    parts: list[list[np.ndarray]] = [[], [], []]
    for work in ([(a, 30), (b, 32)], [(c, 4), (a, 39)], [(a, 1), (b, 1), (c, 1)]):
        for (sequence, _), logits in zip(work, here.step(*work), strict=True):
            parts[(a, b, c).index(sequence)].append(logits)
    for found, expected in zip(parts, alone, strict=True):
        assert np.array_equal(np.concatenate(found), expected)
    for sequence in (a, b, c):
        here.pool.release(sequence.pages)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_every_instruction_set_gives_the_same_bits(
    sparse_case: str, dtype: torch.dtype, tiny: Make, native: Make
) -> None:
    model = tiny(sparse_case, dtype)
    prompt = model.prompt(LENGTH)
    for cache in ("f32", "bf16", "int8"):
        found = []
        for isa in _native.isas():
            backend = CpuBackend(Settings(Path(), isa=isa), 1)
            found.append(native.__wrapped__(model.files, cache=cache, backend=backend).logits(prompt, 64))
        for other in found[1:]:
            assert np.array_equal(found[0], other)
