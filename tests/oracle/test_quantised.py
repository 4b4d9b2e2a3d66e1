"""Quantised folders give the logits that transformers gives on the values that they stand for."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.kernels.cpu.machine import machine
from sampan.kernels.cpu.pieces import pieces
from sampan.kernels.torch.backend import TorchBackend
from sampan.llm.load import graph_of
from sampan.models.registry import load_file
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.save import PackedFile, copy_companions

CASES = load_file(Path(__file__).parents[1] / "packers.py").CASES
Make = Callable[..., Any]
LENGTH = 120
EARLY = 64  # positions whose activations keep 16 bits
# As for GGUF (test_gguf.py): floats, 16-bit activations, bf16 weights; 8-bit ones in one of two layers.
FLOAT, FINE, ROUNDED, COARSE = 1e-5, 5e-4, 4e-3, 0.07


@pytest.fixture(scope="module")
def quantised(tiny: Make, packers: Any, rounding: Make, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`quantised(case)`: files of a tiny Qwen2, its linears quantised, and transformers' logits of a prompt;
    inputs of linears that come out as bf16 or E4M3 are bf16."""

    def make(case: str, rounded: bool = True) -> tuple[ModelFiles, list[int], np.ndarray]:
        model = tiny("qwen2")
        folder = tmp_path_factory.mktemp("quantised")
        values = packers.quantise(model.files.path, folder, *CASES[case])
        oracle = type(model)(model.files, deepcopy(model.oracle))
        missing, unexpected = oracle.oracle.load_state_dict(values, strict=False)
        assert not missing
        assert not unexpected
        files = ModelFiles(folder, "folder", case, str(folder))
        with open_checkpoint(files) as checkpoint:
            for name, info in checkpoint.tensors.items() if rounded else ():
                if info.type.name == "BF16" or (info.form and info.form.rows):
                    rounding(oracle.oracle.get_submodule(name.removesuffix(".weight")))
        prompt = model.prompt(LENGTH)
        return files, prompt, oracle.expected(prompt)

    return make


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_values(case: str, quantised: Make, native: Make, error: Make) -> None:
    files, prompt, expected = quantised(case)
    with open_checkpoint(files) as checkpoint:
        infos = [info for info in checkpoint.tensors.values() if info.decoder]
        floats = any(info.form and info.form.rows for info in infos)
        coded = any(info.form for info in infos) and not floats
        rounded = floats or any(info.type.name == "BF16" for info in infos)
    found = native(files).logits(prompt)
    early, late = error(found[:EARLY], expected[:EARLY]), error(found, expected)
    if coded:
        assert early < FINE
        assert late < COARSE
    else:
        assert late < (ROUNDED if rounded else FLOAT)


@pytest.mark.parametrize("case", ["gptq", "awq", "fp8", "compressed int8"])
def test_torch_multiplies_the_values_unrounded(case: str, quantised: Make, native: Make, error: Make) -> None:
    files, prompt, expected = quantised(case, rounded=False)
    found = native(files, backend=TorchBackend()).logits(prompt)
    assert error(found, expected) < FLOAT


@pytest.mark.parametrize("case", ["gptq", "gptq asymmetric", "gptq ordered", "fp8", "compressed 4 rows"])
def test_a_packed_copy_has_the_same_bits(case: str, quantised: Make, native: Make, tmp_path: Path) -> None:
    """`sampan quantize` without --bits keeps what the kernels have."""
    files, prompt, _ = quantised(case)
    with open_checkpoint(files) as checkpoint:
        found = pieces(graph_of(checkpoint.config), checkpoint, lambda _weight: None)
        writer = PackedFile(checkpoint, found)
        writer.write(tmp_path / "model.safetensors", machine(Settings(Path(), tune=False), 2), lambda _: None)
    assert (tmp_path / "model.safetensors").stat().st_size == writer.bytes
    copy_companions(files.path, tmp_path)
    packed = ModelFiles(tmp_path, "folder", case, str(tmp_path))
    assert np.array_equal(native(packed).logits(prompt), native(files).logits(prompt))
