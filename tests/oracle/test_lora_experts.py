"""Adapters of experts give the logits of merged weights, and every row the bits that it has alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sampan.core.errors import UnsupportedModel
from sampan.kernels.backend import AdapterRoom
from sampan.kernels.cpu.adapters import packed_adapter
from sampan.kernels.torch.backend import TorchBackend
from sampan.weights.lora import read_lora

Make = Callable[..., Any]
NOISE, LENGTH, ROOM = 3e-5, 100, AdapterRoom(3, 20)
CASES = ["qwen3_moe", "qwen3_moe-odd", "qwen2_moe-some", "mixtral", "deepseek_v3"]


@pytest.fixture
def adapted(write_adapter: Make, tmp_path: Path) -> Any:
    """`adapted(here, case, seed)`: an adapter of a program, loaded until the test ends; its matrices."""
    kept: list[tuple[Any, int]] = []

    def load(here: Any, case: str, seed: int, **options: Any) -> tuple[int, dict[str, Any]]:
        folder = tmp_path / f"{case}{seed}"
        shapes = {name: weight.shape for name, weight in here.weights.items()}
        targets = ("w1", "w2", "w3") if case == "mixtral" else ("gate_proj", "up_proj", "down_proj")
        deltas = write_adapter(folder, shapes, seed=seed, **{"targets": targets} | options)
        adapter = read_lora(folder, here.weights)
        found = here.runner.adapters.load(adapter)
        adapter.close()
        kept.append((here.runner, found))
        return found, deltas

    yield load
    for runner, adapter in kept:
        runner.adapters.unload(adapter)


def merged(model: Any, deltas: dict[str, Any], folder: Path, scale: float) -> Any:
    """Transformers' model of W + scale * B A."""
    tensors = load_file(model.files.path / "model.safetensors")
    for module, (a, b) in deltas.items():
        tensors[f"{module}.weight"] += scale * torch.tensor(b).float() @ torch.tensor(a).float()
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text((model.files.path / "config.json").read_text())
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return replace(model, oracle=oracle.eval())


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_of_experts_gives_the_logits_of_merged_weights(
    case: str, adapted: Any, tiny: Make, native: Make, error: Make, tmp_path: Path
) -> None:
    model = tiny(case)
    prompt = model.prompt(LENGTH)
    for here in (native(model.files, room=ROOM), native(model.files, room=ROOM, backend=TorchBackend())):
        adapter, deltas = adapted(here, case, 0, rank=5, alpha=10, size=0.2)
        found = here.logits(prompt, adapter=adapter)
        folder = tmp_path / f"merged{id(here)}"
        assert error(found, merged(model, deltas, folder, 2.0).expected(prompt)) < NOISE
        assert error(found, model.expected(prompt)) > 0.01  # it does change the answer


@pytest.mark.parametrize("case", ["deepseek_v3", "deepseek_v2-lite", "deepseek_v3-odd"])
def test_an_adapter_of_latent_attention_gives_the_logits_of_merged_weights(
    case: str, tiny: Make, native: Make, error: Make, write_adapter: Make, tmp_path: Path
) -> None:
    """`kv_b_proj` is a matrix for the keys and one for the values of each head here, the keys' absorbed."""
    model = tiny(case)
    tensors = load_file(model.files.path / "model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    targets = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
    deltas = write_adapter(tmp_path / "some", shapes, targets=targets, rank=5, alpha=10, size=0.2)
    write_adapter(tmp_path / "other", shapes, targets=("kv_b_proj",), rank=17, seed=1)
    expected = merged(model, deltas, tmp_path / "merged", 2.0).expected(model.prompt(LENGTH))
    for here in (native(model.files, room=ROOM), native(model.files, room=ROOM, backend=TorchBackend())):
        prompt, loaded = model.prompt(LENGTH), [0]
        for name in ("some", "other"):
            adapter = read_lora(tmp_path / name, here.weights)
            loaded.append(here.runner.adapters.load(adapter))
            adapter.close()
        found = [here.logits(prompt, adapter=each) for each in loaded]
        assert error(found[1], expected) < NOISE
        assert error(found[2], found[0]) > 0.01
        sequences = [here.sequence(prompt, each) for each in loaded]
        parts = [here.step(*((sequence, n) for sequence in sequences)) for n in (60, 1, LENGTH - 61)]
        for alone, together, sequence in zip(found, zip(*parts, strict=True), sequences, strict=True):
            assert error(np.concatenate(together), alone) < NOISE
            exact = here.runner.executable.takes_targets  # of the native kernels
            assert not exact or np.array_equal(np.concatenate(together), alone)
            here.pool.release(sequence.pages)
        for each in loaded[1:]:
            here.runner.adapters.unload(each)


@pytest.mark.parametrize("case", ["deepseek_v3", "deepseek_v3-odd"])
def test_room_for_heads_is_what_they_take_and_changes_no_bit(
    case: str, tiny: Make, native: Make, write_adapter: Make, tmp_path: Path
) -> None:
    model = tiny(case, torch.bfloat16)
    here, prompt = native(model.files, room=ROOM), model.prompt(LENGTH)
    program = here.runner.executable
    tensors = load_file(model.files.path / "model.safetensors")
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and name.endswith("proj.weight") | name.endswith("mqa.weight")
        and ".experts." not in name
    }  # fmt: skip
    write_adapter(tmp_path, shapes, targets=tuple({n.split(".")[-2] for n in shapes}), rank=ROOM.rank)
    adapter = read_lora(tmp_path, here.weights)
    packed = packed_adapter(adapter, program.machine, program.plan.turned)
    sizes = {id(matrix): matrix.data.nbytes for pair in packed.values() for matrix in pair}
    assert program.plan.adapter_bytes == ROOM.count * sum(sizes.values())
    assert program.adapter_bytes(adapter) == sum(sizes.values())
    found = here.runner.adapters.load(adapter)
    plain, other = here.sequence(prompt), here.sequence(prompt, found)
    logits, changed = here.step((plain, LENGTH), (other, LENGTH))
    assert np.array_equal(logits, native(model.files).logits(prompt))
    assert not np.array_equal(changed, logits)
    for sequence in (plain, other):
        here.pool.release(sequence.pages)
    here.runner.adapters.unload(found)
    adapter.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_every_row_of_a_batch_has_its_bits(
    dtype: torch.dtype, adapted: Any, tiny: Make, native: Make
) -> None:
    """With an adapter of experts, with another one, and with none, on one thread and on three."""
    model = tiny("qwen3_moe", dtype)
    here, three = (native(model.files, room=ROOM, threads=threads) for threads in (1, 3))
    adapters = [0, adapted(here, "qwen3_moe", 0)[0], adapted(here, "qwen3_moe", 1, rank=18)[0]]
    others = [0, adapted(three, "qwen3_moe", 0)[0], adapted(three, "qwen3_moe", 1, rank=18)[0]]
    prompts = [model.prompt(LENGTH, seed=seed) for seed in range(3)]
    alone = [here.logits(prompt, adapter=adapter) for prompt, adapter in zip(prompts, adapters, strict=True)]
    assert np.array_equal(alone[0], native(model.files).logits(prompts[0]))
    assert not np.array_equal(alone[1], here.logits(prompts[1]))
    for runner, own in ((here, adapters), (three, others)):
        sequences = [runner.sequence(prompt, each) for prompt, each in zip(prompts, own, strict=True)]
        found: list[list[np.ndarray]] = [[] for _ in prompts]
        for counts in [(30, 1, 40), (1, 1, 1), (69, 98, 59)]:
            for place, logits in enumerate(runner.step(*zip(sequences, counts, strict=True))):
                found[place].append(logits)
        for sequence, parts, expected in zip(sequences, found, alone, strict=True):
            assert np.array_equal(np.concatenate(parts), expected)
            runner.pool.release(sequence.pages)


@pytest.mark.parametrize(
    ("module", "shape", "said"),
    [
        ("mlp.experts", (384, 64), "mlp.experts', which is many matrices here"),
        ("mlp.gate", (8, 128), "mlp.gate': a router's choices stay as they are"),
    ],
)
def test_an_adapter_of_what_has_none_is_refused_by_name(
    module: str,
    shape: tuple[int, int],
    said: str,
    tiny: Make,
    native: Make,
    write_adapter: Make,
    tmp_path: Path,
) -> None:
    here = native(tiny("deepseek_v3").files, room=ROOM)
    write_adapter(tmp_path, {f"model.layers.1.{module}.weight": shape}, targets=(module.split(".")[-1],))
    with pytest.raises(UnsupportedModel, match=said):
        read_lora(tmp_path, here.weights)
