"""Mixtures of experts and latent attention in FP8: codes and scales in memory give the logits of their
values, and the same bits on every instruction set and in any chunk."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.kernels.cpu import _native
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.cpu.machine import machine
from sampan.kernels.cpu.pieces import pieces
from sampan.kernels.torch.backend import TorchBackend
from sampan.llm.load import graph_of
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.save import PackedFile, copy_companions

Make = Callable[..., Any]
LINEARS = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "q_a_proj",
    "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj",
)  # fmt: skip
LENGTH, FLOAT, ROUNDED = 120, 2e-5, 0.01
# Of 96 rows a head in `kv_b_proj`, blocks of 32 begin where keys and values do, those of 128 anywhere.
CASES = [
    ("deepseek_v3", 32),
    ("deepseek_v3", 128),
    ("deepseek_v2-lite", 128),
    ("qwen3_moe", 32),
    ("mixtral", 128),
]


@pytest.fixture(scope="module")
def made(tiny: Make, packers: Any, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`made(case, block)`: files of the tiny model with its linears in FP8, and transformers' model of the
    values."""

    @cache
    def make(case: str, block: int) -> tuple[ModelFiles, Any]:
        source, folder, plain = (tiny(case).files.path, *(tmp_path_factory.mktemp("fp8") for _ in range(2)))
        config = packers.FP8 | {"weight_block_size": [block, block]}
        values = packers.quantise(source, folder, config, packers.fp8((block, block)), LINEARS)
        save_file(values, plain / "model.safetensors", metadata={"format": "pt"})
        (plain / "config.json").write_text((source / "config.json").read_text())
        oracle = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32, attn_implementation="eager")
        return ModelFiles(folder, "folder", case, str(folder)), oracle.eval()

    return make


@pytest.mark.parametrize(("case", "block"), CASES)
def test_logits_are_those_of_the_values(
    case: str, block: int, made: Make, native: Make, tiny: Make, error: Make
) -> None:
    files, oracle = made(case, block)
    with open_checkpoint(files) as checkpoint:
        forms = [info.form for name, info in checkpoint.tensors.items() if info.decoder]
    assert all(form and form.rows for form in forms)
    prompt = tiny(case).prompt(LENGTH)
    with torch.no_grad():
        expected = oracle(torch.tensor([prompt]), use_cache=False).logits[0].numpy()
    assert error(native(files, backend=TorchBackend()).logits(prompt), expected) < FLOAT
    found = native(files).logits(prompt)  # inputs rounded to bf16 move a router that is nearly undecided
    differences = np.abs(found - expected).max(-1) / (expected.max() - expected.min())
    assert np.median(differences) < ROUNDED


@pytest.mark.parametrize(("case", "block"), CASES[1:3])
def test_every_instruction_set_and_chunk_gives_the_same_bits(
    case: str, block: int, made: Make, native: Make, tiny: Make
) -> None:
    files, _ = made(case, block)
    prompt = tiny(case).prompt(LENGTH)
    whole = native(files, cache="bf16", threads=2).logits(prompt)
    assert np.array_equal(native(files, cache="bf16").logits(prompt, 7), whole)
    for isa in _native.isas():
        backend = CpuBackend(Settings(Path(), isa=isa), 1)
        assert np.array_equal(native.__wrapped__(files, cache="bf16", backend=backend).logits(prompt), whole)


def test_merged_experts_are_the_same(made: Make, native: Make, tiny: Make, tmp_path: Path) -> None:
    """As transformers keeps them: a tensor of all experts, and its scales."""
    files, _ = made("qwen3_moe", 16)
    found = load_file(files.path / "model.safetensors")
    merged = {name: tensor for name, tensor in found.items() if ".experts." not in name}
    count, layers = 8, 2
    for layer in range(layers):
        at = f"model.layers.{layer}.mlp.experts."
        for ending, new in (("weight", ""), ("weight_scale_inv", "_scale_inv")):
            each = {
                k: [found[f"{at}{n}.{k}_proj.{ending}"] for n in range(count)] for k in ("gate", "up", "down")
            }
            both = [
                torch.cat([gate.float(), up.float()])
                for gate, up in zip(each["gate"], each["up"], strict=True)
            ]
            merged[f"{at}gate_up_proj{new}"] = torch.stack(both).to(each["gate"][0].dtype)
            merged[f"{at}down_proj{new}"] = torch.stack([down.float() for down in each["down"]]).to(
                each["down"][0].dtype
            )
    save_file(merged, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((files.path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    together = ModelFiles(tmp_path, "folder", "merged", str(tmp_path))
    prompt = tiny("qwen3_moe").prompt(LENGTH)
    assert np.array_equal(native(together).logits(prompt), native(files).logits(prompt))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("-mlp.experts.5.up_proj.weight", r"layers.1.mlp.experts.5.up_proj.weight is missing"),
        ("-mlp.experts.5.up_proj.weight_scale_inv", r"experts.5.up_proj.weight_scale_inv. is missing"),
        ("-mlp.experts.5.up_proj", r"layers.1.mlp.experts.5.up_proj.weight is missing"),
        ("fewer", r"layers.0.mlp.gate.weight' .* has shape \[8, 128\], the configuration says \[6"),
        ("more", r"layers.0.mlp.experts.8.gate_proj.weight, .*is missing"),
    ],
)
def test_missing_and_superfluous_experts_are_named(
    change: str, said: str, made: Make, tmp_path: Path
) -> None:
    files, _ = made("qwen3_moe", 32)
    found = load_file(files.path / "model.safetensors")
    if change.startswith("-"):
        name = f"model.layers.1.{change[1:]}"
        found = {n: t for n, t in found.items() if n != name and (name.endswith(("t", "v")) or name not in n)}
    config = json.loads((files.path / "config.json").read_text())
    count = next(name for name in ("num_local_experts", "num_experts") if name in config)
    config[count] += {"fewer": -2, "more": 1}.get(change, 0)
    save_file(found, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((WeightsError, UnsupportedModel), match=said):
        open_checkpoint(ModelFiles(tmp_path, "folder", "", ""))


def test_a_packed_copy_has_the_same_bits(made: Make, native: Make, tiny: Make, tmp_path: Path) -> None:
    files, _ = made("deepseek_v3", 128)
    with open_checkpoint(files) as checkpoint:
        found = pieces(graph_of(checkpoint.config), checkpoint, lambda _weight: None)
        writer = PackedFile(checkpoint, found)
        writer.write(tmp_path / "model.safetensors", machine(Settings(Path(), tune=False), 2), lambda _: None)
    copy_companions(files.path, tmp_path)
    packed = ModelFiles(tmp_path, "folder", "packed", str(tmp_path))
    prompt = tiny("deepseek_v3").prompt(LENGTH)
    assert np.array_equal(native(packed).logits(prompt), native(files).logits(prompt))


@pytest.mark.parametrize("name", ["self_attn.kv_b_proj", "mlp.experts.5.up_proj"])
def test_a_code_that_is_no_number_is_refused(name: str, made: Make, native: Make, tmp_path: Path) -> None:
    files, _ = made("deepseek_v3", 128)
    found = load_file(files.path / "model.safetensors")
    codes = found[f"model.layers.1.{name}.weight"].view(torch.uint8)
    codes[3, 5] = 0xFF
    save_file(found, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((files.path / "config.json").read_text())
    with pytest.raises(WeightsError, match=rf"layers.1.{name}.weight' .* not finite numbers"):
        native(ModelFiles(tmp_path, "folder", name, str(tmp_path)))
