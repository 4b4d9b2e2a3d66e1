"""Sizes that are no whole blocks of 32: the same bits on every instruction set, new weights in place, and the
memory that was planned. What they compute is tested with all other cases."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sampan.core.settings import Settings
from sampan.kernels.backend import AdapterRoom, CacheSize
from sampan.kernels.cpu import _native
from sampan.kernels.cpu.backend import CACHES, CpuBackend
from sampan.llm.load import graph_of
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.update import from_arrays

Make = Callable[..., Any]
HYBRIDS = ["qwen3_next-odd", "qwen3_5-odd"]
ODD, LENGTH = ["llama-odd", "qwen3-odd", "llama-tiny", "qwen3_moe-odd", "deepseek_v3-odd"], 90


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("case", ODD[:3])
def test_every_instruction_set_gives_the_same_bits(
    case: str, dtype: torch.dtype, tiny: Make, native: Make
) -> None:
    model = tiny(case, dtype)
    for cache in CACHES:
        found = []
        for isa in _native.isas():
            backend = CpuBackend(Settings(Path(), isa=isa), 1)
            here = native.__wrapped__(model.files, cache=cache, backend=backend)
            found.append(here.logits(model.prompt(LENGTH), 64))
        assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("case", HYBRIDS)
def test_every_instruction_set_gives_hybrids_the_same_bits(case: str, tiny: Make, native: Make) -> None:
    model = tiny(case, torch.bfloat16)
    found = []
    for isa in _native.isas():
        backend = CpuBackend(Settings(Path(), isa=isa), 1)
        here = native.__wrapped__(model.files, cache="bf16", backend=backend)
        found.append(here.logits(model.prompt(LENGTH), 64))
    assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("case", [*ODD, *HYBRIDS])
def test_what_is_planned_is_what_is_allocated(case: str, tiny: Make) -> None:
    backend, room = CpuBackend(Settings(Path(), tune=False), 2), AdapterRoom(2, 5)
    with open_checkpoint(tiny(case).files) as checkpoint:
        graph = graph_of(checkpoint.config)
        needs = backend.needs(graph, checkpoint, 50, room)
        weights = backend.place(checkpoint)
        program = backend.compile(graph, weights, CacheSize(8, "bf16"), 50, room)
    assert program.workspace_bytes == needs.workspace
    assert program.program.cache_bytes == 8 * needs.page["bf16"]
    matrices = {id(m): m.data.nbytes for m in map(weights.matrix, program.plan.segments.values())}
    vectors = sum(weights.vector(vector).nbytes for vector in program.plan.vectors.values())
    assert sum(matrices.values()) + vectors == needs.weights


@pytest.mark.parametrize("case", ["llama-odd", "qwen3-odd"])
def test_new_weights_in_place_are_those_of_a_file(case: str, tiny: Make, native: Make) -> None:
    """Every tensor halved and back, which changes no bit of it."""
    model = tiny(case, torch.bfloat16)
    here, prompt = native.__wrapped__(model.files), model.prompt(LENGTH)
    before = here.logits(prompt)
    tensors = load_file(model.files.path / "model.safetensors")
    for factor in (0.5, 1.0):
        arrays = {name: tensor.float().numpy() * np.float32(factor) for name, tensor in tensors.items()}
        here.runner.executable.update(from_arrays(arrays))
        assert np.array_equal(here.logits(prompt), before) == (factor == 1.0)
