"""A merged model has, in transformers and here, the logits that PEFT gives with the adapter beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("peft", reason="of the extra `test`")

from sampan.core.errors import SampanError, UnsupportedModel, WeightsError
from sampan.models.registry import load_file as load_module
from sampan.weights.checkpoint import open_checkpoint

merging = load_module(Path(__file__).parent / "merging.py")
Make = Callable[..., Any]
# All compute in float32, in other orders; PiSSA's residual is of LAPACK's in float32 there, float64 here.
NOISE, LENGTH = 3e-5, 40
HEADS = {"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]}}
EXPERTS = ("gate_proj", "up_proj", "down_proj")
STACKS = {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "every linear": ("llama", {"target_modules": "all-linear"}),
    "DoRA": ("qwen2", {"use_dora": True}),
    "DoRA of an embedding": ("llama-tied", {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]}),
    "all biases": ("llama-biased", {"bias": "all"}),
    "biases of what is adapted": ("llama-biased", {"bias": "lora_only"}),
    "biases of products": ("llama-biased", {"lora_bias": True}),
    "biases that the model had not": ("llama", {"lora_bias": True, "target_modules": ["q_proj", "up_proj"]}),
    "a head": ("llama", {"modules_to_save": ["lm_head"]}),
    "a head that was tied": ("llama-tied", {"modules_to_save": ["lm_head"]}),
    "an embedding that was tied": ("qwen2-tied", {"modules_to_save": ["embed_tokens"]}),
    "both ends": ("llama-tied", {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "norms": ("qwen3", {"modules_to_save": ["norm", "embed_tokens"]}),
    "LoRA of a head": ("llama", {"target_modules": ["lm_head"]}),
    "LoRA of a tied head": ("llama-tied", {"target_modules": ["lm_head", "q_proj"]}),
    "LoRA of a tied embedding": ("llama-tied", {"target_modules": ["embed_tokens"]}),
    "LoRA of both ends": ("llama-tied", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    "tokens": ("llama-tied", {"trainable_token_indices": [1, 2, 200]}),
    "tokens of an untied model": ("qwen3", {"trainable_token_indices": [0, 7]}),
    "tokens of either end": ("llama-tied", HEADS),
    "ranks and scales": (
        "llama", {"use_rslora": True, "rank_pattern": {"q_proj": 7}, "alpha_pattern": {"up_proj": 3}},
    ),
    "PiSSA": ("llama", {"init_lora_weights": "pissa"}),
    "PiSSA with rslora": ("qwen3", {"init_lora_weights": "pissa", "use_rslora": True}),
    "OLoRA": ("llama", {"init_lora_weights": "olora"}),
    "experts": ("qwen3_moe", STACKS),
    "one side of experts": ("qwen3_moe", STACKS | {"target_parameters": ["experts.down_proj"]}),
    "experts and their router": ("qwen3_moe", {"target_modules": [*EXPERTS, "gate"]}),
    "experts of Mixtral": ("mixtral", {"target_modules": ["w1", "w2", "w3", "q_proj"]}),
    "latent attention": ("deepseek_v3", STACKS | {"target_modules": "all-linear"}),
    "DoRA of latent attention": ("deepseek_v3", {"use_dora": True, "target_modules": ["kv_b_proj"]}),
    "the gated delta rule": ("qwen3_next", {"target_modules": "all-linear"}),
    "DoRA of Qwen3.5": ("qwen3_5", {"target_modules": "all-linear", "use_dora": True}),
}  # fmt: skip
TIED_STILL = {"tokens"}


def ids(model: Any) -> list[int]:
    return [*model.prompt(LENGTH), 1, 2, 3]


def logits(model: Any, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_those_of_peft(name: str, tiny: Make, native: Make, error: Make, tmp_path: Path) -> None:
    case, fields = KINDS[name]
    model = tiny(case)
    merging.trained(model.files, tmp_path / "adapter", **fields)
    passed = merging.merge(model.files, {tmp_path / "adapter": 1.0}, tmp_path / "out")
    assert passed == []
    expected = logits(merging.adapted(model.files, tmp_path / "adapter"), ids(model))
    files = merging.files_of(tmp_path / "out")
    found = logits(merging.base_of(files), ids(model))
    assert error(found, expected) < NOISE
    assert error(expected, model.expected(ids(model))) > 0.02  # it does change the answer
    assert error(native(files).logits(ids(model)), expected) < 2 * NOISE
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    tied = json.loads((model.files.path / "config.json").read_text()).get("tie_word_embeddings", False)
    assert config.get("tie_word_embeddings", False) == (tied and name in TIED_STILL)


@pytest.mark.parametrize("kind", ["float", "bf16"])
def test_a_merged_bf16_model_is_within_one_rounding(kind: str, tiny: Make, tmp_path: Path) -> None:
    """Each weight is the bf16 nearest to the sum, which PEFT's `merge_and_unload` has in float32."""
    model = tiny("qwen3", torch.bfloat16 if kind == "bf16" else torch.float32)
    merging.trained(model.files, tmp_path / "adapter", target_modules="all-linear")
    merging.merge(model.files, {tmp_path / "adapter": 1.0}, tmp_path / "out", "bf16")
    merged = merging.adapted(model.files, tmp_path / "adapter").merge_and_unload()
    found = merging.base_of(merging.files_of(tmp_path / "out"))
    for name, weight in merged.state_dict().items():
        own = found.state_dict()[name]
        assert torch.allclose(own, weight, rtol=2**-8, atol=1e-6), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_adapters_add_up_by_their_scales(tiny: Make, error: Make, tmp_path: Path) -> None:
    model = tiny("qwen2")
    merging.trained(model.files, tmp_path / "a", seed=1, target_modules=["q_proj", "down_proj"])
    merging.trained(model.files, tmp_path / "b", seed=2, target_modules=["v_proj", "down_proj"], r=6)
    merging.merge(model.files, {tmp_path / "a": 1.0, tmp_path / "b": -0.5}, tmp_path / "out")
    theirs = merging.adapted(model.files, tmp_path / "a")
    theirs.load_adapter(tmp_path / "b", "b")
    for module in theirs.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("b", -0.5)
    theirs.base_model.set_adapter(["default", "b"])
    found = logits(merging.base_of(merging.files_of(tmp_path / "out")), ids(model))
    assert error(found, logits(theirs, ids(model))) < NOISE


def test_a_large_model_is_written_in_shards(tiny: Make, native: Make, tmp_path: Path) -> None:
    model = tiny("llama-tied")
    merging.trained(model.files, tmp_path / "adapter", modules_to_save=["lm_head"])
    for name, shard in (("one", 10**9), ("many", 150_000)):
        merging.merge(model.files, {tmp_path / "adapter": 1.0}, tmp_path / name, shard=shard)
    shards = sorted(tmp_path.glob("many/model-*.safetensors"))
    assert len(shards) > 3
    assert all(path.stat().st_size < 200_000 for path in shards)
    one, many = (merging.files_of(tmp_path / name) for name in ("one", "many"))
    assert np.array_equal(native(one).logits(ids(model)), native(many).logits(ids(model)))
    expected = logits(merging.base_of(one), ids(model))
    assert np.array_equal(logits(merging.base_of(many), ids(model)), expected)


@pytest.mark.parametrize("case", ["llama-tied", "deepseek_v3", "mixtral", "qwen3_5_moe"])
def test_a_model_without_adapters_keeps_its_bits(case: str, tiny: Make, tmp_path: Path) -> None:
    model = tiny(case)
    merging.merge(model.files, {}, tmp_path / "out")
    with open_checkpoint(model.files) as before, open_checkpoint(merging.files_of(tmp_path / "out")) as after:
        assert before.tensors.keys() == after.tensors.keys()
        assert all(np.array_equal(before.array(name), after.array(name)) for name in before.tensors)
        assert before.config == after.config


@pytest.mark.parametrize("case", ["gptq", "awq", "fp8"])
def test_a_quantised_folder_is_written_as_the_values_that_it_stands_for(
    case: str, tiny: Make, packers: Any, tmp_path: Path
) -> None:
    """With an adapter, in float32: what transformers makes of the values with PEFT's adapter."""
    model = tiny("qwen2")
    name = next(name for name in packers.CASES if name.startswith(case))
    values = packers.quantise(model.files.path, tmp_path / "packed", *packers.CASES[name])
    merging.trained(model.files, tmp_path / "adapter")
    files = merging.files_of(tmp_path / "packed")
    merging.merge(files, {tmp_path / "adapter": 1.0}, tmp_path / "out", "f32")
    theirs = merging.adapted(model.files, tmp_path / "adapter").merge_and_unload()
    base = merging.base_of(model.files).state_dict()
    found = merging.base_of(merging.files_of(tmp_path / "out")).state_dict()
    for name, merged in theirs.state_dict().items():
        expected = values.get(name, base[name]).float() + (merged - base[name])
        assert torch.allclose(found[name], expected, rtol=0, atol=2e-5), name
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_tied_embedding_that_comes_whole_stays_tied(tiny: Make, error: Make, tmp_path: Path) -> None:
    """PEFT saves it where the vocabulary was resized, and loads it into both ends."""
    model = tiny("llama-tied")
    merging.trained(model.files, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    noise = torch.randn(256, 128, generator=torch.Generator().manual_seed(0))
    tensors["base_model.model.model.embed_tokens.weight"] = noise
    save_file(tensors, path)
    merging.merge(model.files, {tmp_path / "adapter": 1.0}, tmp_path / "out")
    expected = logits(merging.adapted(model.files, tmp_path / "adapter"), ids(model))
    found = logits(merging.base_of(merging.files_of(tmp_path / "out")), ids(model))
    assert error(found, expected) < NOISE
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert config["dtype"] == "float32"


REFUSED: dict[str, tuple[dict[str, Any], float, type[SampanError], str]] = {
    "half of DoRA": ({"use_dora": True}, 0.5, UnsupportedModel, "is no sum of products alone.*without :0.5"),
    "half of a head": ({"modules_to_save": ["lm_head"]}, 0.5, UnsupportedModel, "is no sum of products"),
    "PiSSA by chance": ({"init_lora_weights": "pissa_niter_2"}, 1, UnsupportedModel, r"\(pissa\).*convert"),
    "a second one's tensor": ({"modules_to_save": ["lm_head"]}, 1, UnsupportedModel, "brings .*changes too"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_exact_meaning_is_refused(name: str, tiny: Make, tmp_path: Path) -> None:
    fields, scale, kind, said = REFUSED[name]
    files = tiny("llama").files
    merging.trained(files, tmp_path / "adapter", **fields)
    merging.trained(files, tmp_path / "other", target_modules=["lm_head"])
    adapters = {tmp_path / "adapter": float(scale)}
    adapters |= {tmp_path / "other": 1.0} if "second" in name else {}
    with pytest.raises(kind, match=said):
        merging.merge(files, adapters, tmp_path / "out")


def test_biases_that_a_family_cannot_have_are_refused(tiny: Make, tmp_path: Path) -> None:
    files = tiny("qwen2").files
    merging.trained(files, tmp_path / "adapter", lora_bias=True, target_modules=["o_proj"])
    with pytest.raises(UnsupportedModel, match=r"its family has no 'model\.layers\.0\.self_attn\.o_proj"):
        merging.merge(files, {tmp_path / "adapter": 1.0}, tmp_path / "out")


@pytest.mark.parametrize("dtype", ["f16"])
def test_values_that_a_type_cannot_hold_are_refused(dtype: str, tiny: Make, tmp_path: Path) -> None:
    files = tiny("llama").files
    merging.trained(files, tmp_path / "adapter", lora_alpha=4_000_000)
    with pytest.raises(UnsupportedModel, match="beyond f16's 65504: take bf16"):
        merging.merge(files, {tmp_path / "adapter": 1.0}, tmp_path / "out", dtype)


def test_another_models_adapter_is_refused(tiny: Make, tmp_path: Path) -> None:
    merging.trained(tiny("qwen3").files, tmp_path / "adapter")
    with pytest.raises(WeightsError, match="has shape"):
        merging.merge(tiny("llama").files, {tmp_path / "adapter": 1.0}, tmp_path / "out")
