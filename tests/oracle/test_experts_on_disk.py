"""Experts on disk: the bits of a model that has them all in memory, whatever the memory for them, for every
family, type of weights, batch, chunk and thread count."""

from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest
import torch

from sampan.core.errors import OutOfMemory, UnsupportedModel
from sampan.core.settings import EXPERT_READING, Settings
from sampan.core.types import ModelFiles
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.cpu.layout import Layout
from sampan.kernels.cpu.machine import machine
from sampan.kernels.cpu.pieces import pieces
from sampan.kernels.cpu.planner import make_plan
from sampan.kernels.cpu.rounding import scheme_for
from sampan.kernels.experts import ExpertRoom
from sampan.llm.load import graph_of
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.save import PackedFile

Make = Callable[..., Any]


def sizes(model: Any) -> tuple[int, int]:
    """Bytes of an expert's slot, and experts that one token goes through."""
    with open_checkpoint(model.files) as checkpoint:
        room = ExpertRoom(2**40, "")
        plan = make_plan(graph_of(checkpoint.config), Layout(checkpoint, room), 4)
        return plan.expert_bytes, sum(layer.chosen for layer in plan.stored)


@pytest.fixture
def on_disk(native: Make, tmp_path: Path) -> Make:
    """The native program of a model with so many slots more than the least."""

    def make(
        model: Any, more: int, without: frozenset[str] = frozenset(), threads: int = 2, **how: Any
    ) -> Any:
        each, least = sizes(model)
        backend = CpuBackend(Settings(tmp_path), threads)
        room = ExpertRoom((least + more) * each, "as it is", without)
        return native.__wrapped__(model.files, backend=backend, experts=room, **how)

    return make


def test_no_bit_depends_on_where_experts_are(
    mixed_case: str, tiny: Make, native: Make, on_disk: Make
) -> None:
    model = tiny(mixed_case)
    prompt = model.prompt(70)
    whole = native(model.files).logits(prompt)
    here = on_disk(model, 0)
    for chunk in (70, 9, 1):
        assert np.array_equal(here.logits(prompt, chunk), whole)
    reads = here.runner.executable.expert_reads
    assert reads.tokens == 3 * len(prompt)
    assert 0 < reads.found <= reads.asked
    assert reads.reads - (reads.read_ahead - reads.read_ahead_used) <= reads.asked
    assert reads.bytes_read == reads.reads * reads.bytes_each


def test_rows_side_by_side(tiny: Make, native: Make, on_disk: Make) -> None:
    model = tiny("qwen3_moe", torch.bfloat16)
    prompts = [model.prompt(length, seed=length) for length in (40, 33, 5)]
    alone = [native(model.files, cache="bf16", threads=2).logits(prompt) for prompt in prompts]
    here = on_disk(model, 3, cache="bf16")
    a, b, c = (here.sequence(prompt) for prompt in prompts)
    parts: list[list[np.ndarray]] = [[], [], []]
    for work in ([(a, 30), (b, 32)], [(c, 4), (a, 9)], [(a, 1), (b, 1), (c, 1)]):
        for (sequence, _), logits in zip(work, here.step(*work), strict=True):
            parts[(a, b, c).index(sequence)].append(logits)
    for found, expected in zip(parts, alone, strict=True):
        assert np.array_equal(np.concatenate(found), expected)


@pytest.mark.parametrize("without", [{word} for word in sorted(EXPERT_READING)] + [EXPERT_READING])
def test_without_one_of_its_mechanisms_a_store_is_slower_and_no_different(
    without: set[str], tiny: Make, native: Make, on_disk: Make
) -> None:
    model = tiny("qwen2_moe")
    prompt = model.prompt(60)
    here = on_disk(model, 1, frozenset(without), threads=1)
    assert np.array_equal(here.logits(prompt, 1), native(model.files).logits(prompt))
    reads = here.runner.executable.expert_reads
    assert (reads.read_ahead > 0) == ("read-ahead" not in without)
    assert not (reads.direct and "direct" in without)


def test_all_of_them_in_memory_are_read_once(tiny: Make, native: Make, on_disk: Make) -> None:
    model = tiny("qwen3_moe")
    prompt = model.prompt(60)
    here = on_disk(model, 1000)
    assert np.array_equal(here.logits(prompt, 7), native(model.files).logits(prompt))
    first = here.runner.executable.expert_reads
    here.logits(prompt, 1)
    again = here.runner.executable.expert_reads.since(first)
    assert again.reads == 0
    assert again.hit_rate == 1.0
    assert first.slots == 16  # all that there are


@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_a_packed_folder_is_read_where_it_lies(
    together: bool, tiny: Make, native: Make, on_disk: Make, tmp_path: Path
) -> None:
    """Unless an expert's matrices lie apart in it, as they did before: then they are copied."""
    model, folder = tiny("mixtral"), tmp_path / "packed"
    folder.mkdir()
    copyfile(model.files.path / "config.json", folder / "config.json")
    with open_checkpoint(model.files) as checkpoint:
        found = pieces(graph_of(checkpoint.config), checkpoint, lambda weight: scheme_for(weight, 4, 32))
        found = found if together else sorted(found, key=lambda piece: ".w2." in piece.name)
        here = machine(Settings(tmp_path), 1)
        PackedFile(checkpoint, found).write(folder / "model.safetensors", here, lambda _bytes: None)
    packed = type(model)(ModelFiles(folder, "folder", "packed", str(folder)), model.oracle)
    prompt = model.prompt(50)
    disk = on_disk(packed, 2)
    assert np.array_equal(disk.logits(prompt, 1), native(packed.files).logits(prompt))
    assert disk.runner.executable.expert_reads.reads > 0
    assert (tmp_path / "experts").exists() != together


def test_less_than_a_token_goes_through_is_refused_with_the_number(tiny: Make, tmp_path: Path) -> None:
    model = tiny("deepseek_v3")
    each, least = sizes(model)
    backend = CpuBackend(Settings(tmp_path), 1)
    with open_checkpoint(model.files) as checkpoint:
        graph = graph_of(checkpoint.config)
        with pytest.raises(OutOfMemory, match=f"{least} experts in 2 layers, {least * each} bytes"):
            backend.needs(graph, checkpoint, 64, None, ExpertRoom(least * each - 1, ""))
        needs = backend.needs(graph, checkpoint, 64, None, ExpertRoom(least * each, ""))
        whole = backend.needs(graph, checkpoint, 64, None)
    assert needs.experts == least * each
    assert needs.weights - needs.experts < whole.weights
    assert not list(tmp_path.iterdir())


def test_their_values_cannot_be_changed(tiny: Make, on_disk: Make) -> None:
    here = on_disk(tiny("mixtral"), 0)
    name = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    new = type("New", (), {"where": "new", "shapes": {name: (128, 160)}, "rows": None})()
    with pytest.raises(UnsupportedModel, match=r"experts\.1\.w2\.weight is an expert's and stays on disk"):
        here.runner.update(new)
