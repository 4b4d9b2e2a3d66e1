"""A merged model in GGUF is the merged folder, to the bit here, and for transformers too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

pytest.importorskip("peft", reason="of the extra `test`")

from sampan.core.errors import UnsupportedModel
from sampan.models.registry import describe, load_file
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.gguf_write import write_gguf
from sampan.weights.merge.gguf import gguf_of
from sampan.weights.merge.model import Merged
from sampan.weights.merge.read import read

merging = load_file(Path(__file__).parent / "merging.py")
Make = Callable[..., Any]
LENGTH, NOISE = 40, 2e-5
CASES = [
    "llama", "llama-tied", "llama-biased", "llama-llama3", "llama-linear", "llama-yarn", "llama-odd", "qwen2",
    "qwen2-tied", "qwen2-yarn", "qwen3", "qwen3-tied",
]  # fmt: skip
# It reads no stretching, no biases of a Llama, and no heads of a Qwen3 but of 128 features.
FOR_TRANSFORMERS = ["llama", "llama-tied", "qwen2", "qwen2-tied", "qwen3 with large heads"]


def write(files: Any, adapter: Path | None, out: Path, dtype: str = "keep") -> Any:
    """The model as a GGUF file, without a tokenizer."""
    with open_checkpoint(files) as checkpoint, out.open("wb") as file:
        weights = describe(checkpoint.config).weights()
        adapters = [read(adapter, 1.0, checkpoint.config, weights)] if adapter else []
        keys, tensors = gguf_of(Merged(checkpoint, adapters), dtype, out.stem, "apache-2.0", {})
        write_gguf(file, keys, tensors, lambda _: None)
    for each in adapters:
        each.close()
    return merging.files_of(out)


@pytest.mark.parametrize("case", CASES)
def test_the_file_has_the_bits_of_the_folder(
    case: str, tiny: Make, native: Make, error: Make, tmp_path: Path
) -> None:
    model = tiny(case)
    head = {"modules_to_save": ["lm_head"]} if "tied" in case else {}
    merging.trained(model.files, tmp_path / "adapter", **head)
    merging.merge(model.files, {tmp_path / "adapter": 1.0}, tmp_path / "out")
    files = write(model.files, tmp_path / "adapter", tmp_path / "out.gguf")
    again = write(files, None, tmp_path / "again.gguf")  # GGUF to GGUF: its own keys, its own order of rows
    prompt = model.prompt(LENGTH)
    expected = native(merging.files_of(tmp_path / "out")).logits(prompt)
    found = native(files).logits(prompt)
    if case == "llama-llama3":  # what its frequencies are divided by is rounded once
        assert error(found, expected) < 1e-6
    else:
        assert np.array_equal(found, expected)
    assert np.array_equal(native(again).logits(prompt), found)
    assert not np.array_equal(native(model.files).logits(prompt), expected)


@pytest.mark.parametrize("case", FOR_TRANSFORMERS)
def test_transformers_reads_the_file(case: str, tiny: Make, error: Make, tmp_path: Path) -> None:
    files = merging.made(tmp_path / "base") if "large" in case else tiny(case).files
    merging.trained(files, tmp_path / "adapter")
    write(files, tmp_path / "adapter", tmp_path / "out.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="out.gguf", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    prompt = torch.tensor([list(range(LENGTH))])
    with torch.no_grad():
        found = theirs(prompt).logits[0].numpy()
        expected = merging.adapted(files, tmp_path / "adapter")(prompt).logits[0].numpy()
    assert error(found, expected) < NOISE


@pytest.mark.parametrize(("dtype", "number"), [("f32", 0), ("f16", 1), ("bf16", 30)])
def test_the_gguf_package_reads_the_file(dtype: str, number: int, tiny: Make, tmp_path: Path) -> None:
    model = tiny("llama")
    write(model.files, None, tmp_path / "out.gguf", dtype)
    found = gguf.GGUFReader(tmp_path / "out.gguf")
    types = {tensor.name: int(tensor.tensor_type) for tensor in found.tensors}
    assert types["blk.0.attn_q.weight"] == types["output.weight"] == number
    assert types["blk.1.ffn_norm.weight"] == types["output_norm.weight"] == 0
    keys = {name: field.contents() for name, field in found.fields.items() if "." in name}
    assert keys["general.architecture"] == "llama"
    assert keys["general.license"] == "apache-2.0"
    assert keys["general.file_type"] == {"f32": 0, "f16": 1, "bf16": 32}[dtype]
    assert keys["llama.attention.head_count_kv"] == 2
    assert keys["llama.rope.freq_base"] == 10000.0
    # The rows of a Llama's queries lie in pairs, as llama.cpp's converter has them.
    oracle = model.oracle.state_dict()["model.layers.0.self_attn.q_proj.weight"].numpy()
    turned = oracle.reshape(4, 2, 16, 128).swapaxes(1, 2).reshape(oracle.shape)
    (tensor,) = (tensor for tensor in found.tensors if tensor.name == "blk.0.attn_q.weight")
    kept = gguf.dequantize(tensor.data, tensor.tensor_type)
    assert np.allclose(kept, turned, rtol=2**-8 if dtype == "bf16" else 2**-10, atol=1e-6)


@pytest.mark.parametrize("case", ["qwen3_moe", "deepseek_v3", "qwen3_5"])
def test_other_families_are_refused_by_name(case: str, tiny: Make, tmp_path: Path) -> None:
    said = r"a [a-z0-9_]+ model is not written as GGUF, but llama, qwen2, qwen3 are"
    with pytest.raises(UnsupportedModel, match=said):
        write(tiny(case).files, None, tmp_path / "out.gguf")
