"""Adapters in GGUF give the bits of the same adapter as PEFT has it, whose logits are those of merged weights
(test_lora.py, test_lora_experts.py); merged, they are within a rounding of it."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from sampan.core.errors import SampanError, UnsupportedModel, WeightsError
from sampan.kernels.backend import AdapterRoom
from sampan.models.registry import describe, from_hf, load_file
from sampan.weights.lora import Lora, read_lora
from sampan.weights.lora_gguf import read_adapter
from sampan.weights.safetensors import read_json

Make = Callable[..., Any]
Deltas = Mapping[str, tuple[np.ndarray, np.ndarray]]
ROOM, LENGTH = AdapterRoom(2, 16), 50
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
HEADS = {"q_proj": 4, "k_proj": 2}  # of cases.SMALL


def write(path: Path, deltas: Deltas, arch: str, alpha: float, **keys: str) -> None:
    """As `convert_lora_to_gguf.py` lays an adapter out: pairs of a llama's q and k side by side, experts of a
    layer in one tensor."""
    writer = gguf.GGUFWriter(path, arch)
    given = {"general.type": "adapter", "adapter.type": "lora"} | keys
    for key, text in given.items():
        writer.add_string(key, text)
    if alpha:
        writer.add_float32("adapter.lora.alpha", alpha)
    merged: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for module, (a, b) in deltas.items():
        layer, part = module.removeprefix("model.layers.").split(".", 1)
        if part.startswith("mlp.experts."):
            merged.setdefault(f"blk.{layer}.ffn_{part.split('.')[-1][:-5]}_exps", []).append((a, b))
            continue
        last = part.split(".")[-1]
        if arch == "llama" and last in HEADS:
            b = b.reshape(HEADS[last], 2, -1, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
        writer.add_tensor(f"blk.{layer}.{NAMES[part]}.weight.lora_a", a)
        writer.add_tensor(f"blk.{layer}.{NAMES[part]}.weight.lora_b", np.ascontiguousarray(b))
    for name, pairs in merged.items():
        for kind, matrices in zip("ab", zip(*pairs, strict=True), strict=True):
            writer.add_tensor(f"{name}.weight.lora_{kind}", np.stack(matrices))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def read(tiny: Make) -> Callable[[Path, str, Any], Lora]:
    """`read(path, case, here)`: an adapter of a program's model."""
    return lambda path, case, here: read_adapter(
        path, from_hf(read_json(tiny(case).files.path / "config.json")), here.weights
    )


@pytest.mark.parametrize("alpha", [6.0, 0.0])
@pytest.mark.parametrize(
    ("case", "arch"), [("llama", "llama"), ("qwen2", "qwen2"), ("qwen3_moe", "qwen3moe")]
)
def test_the_same_adapter_gives_the_same_bits(
    case: str, arch: str, alpha: float, tiny: Make, native: Make, read: Any, write_adapter: Make,
    tmp_path: Path,
) -> None:  # fmt: skip
    model = tiny(case)
    here = native(model.files, room=ROOM)
    shapes = {name: weight.shape for name, weight in here.weights.items()}
    deltas = write_adapter(tmp_path / "peft", shapes, rank=5, alpha=alpha or 5)  # no alpha: a scale of one
    write(tmp_path / "lora.gguf", deltas, arch, alpha)
    prompt, logits = model.prompt(LENGTH), []
    for adapter in (read_lora(tmp_path / "peft", here.weights), read(tmp_path / "lora.gguf", case, here)):
        found = here.runner.adapters.load(adapter)
        logits.append(here.logits(prompt, adapter=found))
        here.runner.adapters.unload(found)
        adapter.close()
    assert np.array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], here.logits(prompt))


Q = "model.layers.0.self_attn.q_proj"
REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], type[SampanError], str]] = {
    "another architecture": ({}, {"arch": "qwen2"}, WeightsError, "is an adapter of 'qwen2'"),
    "a model": ({}, {"general.type": "model"}, WeightsError, "general.type is not adapter"),
    "another kind": ({}, {"adapter.type": "ia3"}, UnsupportedModel, "adapter.type is not lora"),
    "other sizes": ({Q: ((4, 64), (128, 4))}, {}, WeightsError, r"has shape \[4, 64\]"),
    "no such layer": ({Q.replace("0", "7"): ((4, 128), (128, 4))}, {}, WeightsError, "has no linear"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name(
    name: str, tiny: Make, native: Make, read: Any, tmp_path: Path
) -> None:
    sizes, keys, kind, said = REFUSED[name]
    shapes = sizes or {Q: ((4, 128), (128, 4))}
    deltas = {m: (np.zeros(a, np.float32), np.zeros(b, np.float32)) for m, (a, b) in shapes.items()}
    arch = keys.get("arch", "llama")
    write(tmp_path / "lora.gguf", deltas, arch, 8, **{k: v for k, v in keys.items() if k != "arch"})
    with pytest.raises(kind, match=said):
        read(tmp_path / "lora.gguf", "llama", native(tiny("llama").files, room=ROOM))


@pytest.mark.parametrize("case", ["deepseek_v3", "deepseek_v3-odd"])
def test_keys_and_values_apart_give_the_same_bits(
    case: str, tiny: Make, native: Make, read: Any, write_adapter: Make, tmp_path: Path
) -> None:
    """As llama.cpp's converter takes `kv_b_proj` apart: the keys' matrices are turned, and so A and B change
    places; one of both is for all heads."""
    model = tiny(case)
    c = from_hf(read_json(model.files.path / "config.json"))
    here = native(model.files, room=ROOM)
    name = "model.layers.1.self_attn.kv_b_proj"
    shapes = {f"{name}.weight": (c.heads * (c.plain + c.value), c.latent)}
    ((a, b),) = write_adapter(tmp_path / "peft", shapes, targets=("kv_b_proj",), rank=5, alpha=8).values()
    each = b.reshape(c.heads, c.plain + c.value, 5)
    keys, values = each[:, : c.plain], each[:, c.plain :]
    pairs = {
        "blk.1.attn_k_b.weight": (keys.swapaxes(1, 2), a.T[None]),
        "blk.1.attn_v_b.weight": (a[None], values),
    }
    raw(tmp_path / "lora.gguf", "deepseek2", 8, pairs)
    prompt, logits = model.prompt(LENGTH), []
    for adapter in (read_lora(tmp_path / "peft", here.weights), read(tmp_path / "lora.gguf", case, here)):
        found = here.runner.adapters.load(adapter)
        logits.append(here.logits(prompt, adapter=found))
        here.runner.adapters.unload(found)
        adapter.close()
    assert np.array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], here.logits(prompt))
    raw(tmp_path / "wrong.gguf", "deepseek2", 8, {"blk.1.attn_k_b.weight": (values, a.T[None])})
    with pytest.raises(WeightsError, match="that is no pair of this model's"):
        read(tmp_path / "wrong.gguf", case, here)


@pytest.mark.parametrize("case", ["llama", "llama-tied"])
def test_both_ends_are_merged(case: str, tiny: Make, error: Make, tmp_path: Path) -> None:
    """A and B of an embedding change places (llama.cpp, `llm_build_inp_embd`)."""
    pytest.importorskip("peft", reason="of the extra `test`")
    merging = load_file(Path(__file__).parent / "merging.py")
    model = tiny(case)
    vocabulary, hidden = model.oracle.config.vocab_size, 128
    rng = np.random.default_rng(1)
    left, right, up, down = (
        rng.normal(0, 0.3, shape).astype(np.float32)
        for shape in ((vocabulary, 4), (hidden, 4), (4, hidden), (vocabulary, 4))
    )
    pairs = {"token_embd.weight": (left, right), "output.weight": (up, down)}
    raw(tmp_path / "lora.gguf", "llama", 8, pairs)
    with pytest.raises(UnsupportedModel, match=r"is no layer's linear: merge it .`sampan merge"):
        read_adapter(
            tmp_path / "lora.gguf", from_hf(read_json(model.files.path / "config.json")), weights(model)
        )
    merging.merge(model.files, {tmp_path / "lora.gguf": 0.5}, tmp_path / "out")
    oracle = deepcopy(model.oracle)
    with torch.no_grad():
        head = oracle.lm_head.weight + torch.tensor(down @ up)
        oracle.model.embed_tokens.weight = torch.nn.Parameter(
            oracle.model.embed_tokens.weight + torch.tensor(left @ right.T)
        )
        oracle.lm_head.weight = torch.nn.Parameter(head)
        prompt = torch.tensor([model.prompt(LENGTH)])
        expected = oracle(prompt).logits[0].numpy()
        found = merging.base_of(merging.files_of(tmp_path / "out"))(prompt).logits[0].numpy()
    assert error(found, expected) < 2e-5
    assert error(expected, model.expected(model.prompt(LENGTH))) > 0.05


def weights(model: Any) -> Any:
    return describe(from_hf(read_json(model.files.path / "config.json"))).weights()


def raw(path: Path, arch: str, alpha: float, pairs: Deltas) -> None:
    """An adapter's tensors as they are given."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, pair in pairs.items():
        for kind, matrix in zip("ab", pair, strict=True):
            writer.add_tensor(f"{name}.lora_{kind}", np.ascontiguousarray(matrix))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
