"""Quantised quantised_folder that contradict themselves, or ask for what is not obeyed: refused by name."""

import json
from typing import Any

import pytest
import torch

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.core.types import ModelFiles
from sampan.weights.checkpoint import Checkpoint, open_checkpoint

UP = "model.layers.0.mlp.up_proj"


def opened(folder: Any) -> Checkpoint:
    return open_checkpoint(ModelFiles(folder, "folder", folder.name, str(folder)))


MISSING = [
    ("fp8", f"{UP}.weight_scale_inv"),
    ("gptq", f"{UP}.scales"),
    ("gptq", f"{UP}.qzeros"),
    ("gptq ordered", f"{UP}.g_idx"),
    ("awq", f"{UP}.qzeros"),
    ("compressed 4", f"{UP}.weight_scale"),
    ("compressed 4", f"{UP}.weight_shape"),
    ("compressed 4 asymmetric", f"{UP}.weight_zero_point"),
    ("compressed 4 ordered", f"{UP}.weight_g_idx"),
]


@pytest.mark.parametrize(("case", "name"), MISSING)
def test_a_missing_part_is_named(changed_folder: Any, case: str, name: str) -> None:
    folder = changed_folder(case, {name: None})
    with pytest.raises(
        WeightsError, match=rf"model\.safetensors: tensor '.*{name[-12:]}' is missing, .*fetch"
    ):
        opened(folder)


WRONG = [
    ("fp8", f"{UP}.weight_scale_inv", torch.ones(2, 1), r"has shape \[2, 1\], blocks of \[128, 128\]"),
    ("fp8", f"{UP}.weight_scale_inv", torch.full((1, 1), torch.nan), "scales that are not finite"),
    ("gptq", f"{UP}.scales", torch.ones(3, 96).half(), r"has shape \[3, 96\], its module asks for \[2, 96\]"),
    ("gptq", f"{UP}.qzeros", torch.ones(2, 11).int(), r"has shape \[2, 11\], its module asks for \[2, 12\]"),
    ("gptq", f"{UP}.qweight", torch.ones(96).int(), "must be a matrix"),
    ("gptq ordered", f"{UP}.g_idx", torch.full((64,), 2).int(), "groups that are not there"),
    ("awq", f"{UP}.scales", torch.ones(2, 95).half(), "its module asks for"),
    ("compressed 4", f"{UP}.weight_shape", torch.tensor([96, 65]), r"says \[96, 65\], which"),
    ("compressed 4", f"{UP}.weight_scale", torch.ones(96, 3).bfloat16(), r"asks for \[96, 2\]"),
]


@pytest.mark.parametrize(("case", "name", "tensor", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_part_that_does_not_fit_is_named(
    changed_folder: Any, case: str, name: str, tensor: torch.Tensor, message: str
) -> None:
    folder = changed_folder(case, {name: tensor})
    with pytest.raises(WeightsError, match=rf"model\.safetensors: tensor '.*' at byte \d+ .*{message}"):
        opened(folder)


def test_a_type_that_is_no_part_of_the_method_is_named(changed_folder: Any) -> None:
    with pytest.raises(UnsupportedModel, match=r"qzeros' at byte \d+ is F32, readable is I32"):
        opened(changed_folder("gptq", {f"{UP}.qzeros": torch.ones(2, 12)}))
    with pytest.raises(
        UnsupportedModel, match="has dtype I32, which this quantization_config does not explain"
    ):
        opened(changed_folder("gptq", {f"{UP}.extra": torch.ones(2).int()}))


def test_values_that_are_not_finite_are_refused_where_they_are_read(changed_folder: Any) -> None:
    scales = torch.ones(2, 96).half()
    scales[1, 7] = torch.inf
    with opened(changed_folder("gptq", {f"{UP}.scales": scales})) as checkpoint:
        for read in (checkpoint.codes, checkpoint.rows):
            read(f"{UP}.weight", 8, 16)
            with pytest.raises(WeightsError, match=r"up_proj.* not finite"):
                read(f"{UP}.weight", 0, 8)


def test_a_module_that_the_list_leaves_out_is_not_quantised(changed_folder: Any) -> None:
    for case, option in (
        ("fp8", "modules_to_not_convert"),
        ("gptq", "modules_to_not_convert"),
        ("compressed 4", "ignore"),
    ):
        for entry in ("up_proj", UP, "model.layers.0"):
            with pytest.raises(WeightsError, match=r"is quantised, but the quantization_config leaves"):
                opened(changed_folder(case, options={option: ["lm_head", entry]}))
        opened(changed_folder(case, options={option: ["lm_head", "proj", "re:.*vision.*"]})).close()


def test_a_bias_that_the_model_does_not_have_is_left_out_where_it_is_zero(changed_folder: Any) -> None:
    """AutoGPTQ writes one for every module."""
    zeros = {f"{UP}.bias": torch.zeros(96).half(), "model.layers.1.self_attn.q_proj.bias": torch.zeros(64)}
    with opened(changed_folder("gptq", zeros)) as checkpoint:
        assert not any(name.endswith(".bias") for name in checkpoint.tensors)
    zeros[f"{UP}.bias"][95] = 1e-7
    with pytest.raises(UnsupportedModel, match=r"up_proj\.bias' has no place in a llama model"):
        opened(changed_folder("gptq", zeros))
    with pytest.raises(UnsupportedModel, match=r"norm\.bias' has no place in a llama model"):
        opened(changed_folder("gptq", {"model.norm.bias": torch.zeros(64)}))


def test_a_bias_that_the_model_has_is_kept_also_where_it_is_zero(changed_folder: Any) -> None:
    biases = {
        f"model.layers.{n}.self_attn.{p}_proj.bias": torch.zeros(64 if p in "qo" else 32)
        for n in range(2)
        for p in "qkvo"
    }
    folder = changed_folder("gptq", biases)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_bias": True}))
    with opened(folder) as checkpoint:
        assert biases.keys() <= checkpoint.tensors.keys()


SCHEME = {
    "weights": {"num_bits": 4, "type": "int", "group_size": 32, "strategy": "group"},
    "targets": ["Linear"],
}
REFUSED = [
    ("fp8", {"quant_method": "bitsandbytes"}, "quant_method 'bitsandbytes' is not supported: fp8, gptq, awq"),
    ("fp8", {"activation_scheme": "static"}, "activation_scheme 'static' is not supported: dynamic is"),
    ("fp8", {"fmt": "e5m2"}, "fmt 'e5m2' is not supported"),
    ("fp8", {"something": 1}, "option 'something' is not supported"),
    ("gptq", {"bits": 3}, "bits 3 is not supported: 4, 8 is"),
    ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format 'marlin' is not supported"),
    ("gptq", {"dynamic": {"-:.*down.*": {}}}, "dynamic .* is not supported"),
    ("gptq", {"pack_dtype": "int64"}, "pack_dtype 'int64' is not supported"),
    ("awq", {"version": "gemv"}, "version 'gemv' is not supported"),
    ("awq", {"zero_point": False}, "zero_point False is not supported"),
    ("compressed 4", {"format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized' is not supported"),
    ("compressed 4", {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme .* is not supported"),
    ("compressed 4", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "format 'sparse-24-bitmask'"),
    ("compressed 4", {"quantization_status": "frozen"}, "quantization_status 'frozen' is not"),
    ("compressed 4", {"transform_config": {"a": 1}}, "transform_config .* is not supported"),
    ("compressed 4", {"config_groups": {"a": SCHEME, "b": SCHEME}}, "2 config_groups are not supported"),
    (
        "compressed 4",
        {"config_groups": {"a": SCHEME | {"input_activations": {"num_bits": 8, "dynamic": False}}}},
        "input_activations: dynamic False is not supported",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("case", "options", "message"), REFUSED, ids=lambda value: str(value)[:50])
def test_options_that_are_not_obeyed_are_refused(
    changed_folder: Any, case: str, options: dict[str, Any], message: str
) -> None:
    folder = changed_folder(case, options=options)
    with pytest.raises(UnsupportedModel, match=rf"config\.json: quantization_config.*{message}"):
        opened(folder)


def test_quantised_tensors_without_a_configuration_are_refused(changed_folder: Any) -> None:
    folder = changed_folder("gptq")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match=r"has dtype 'I32': readable are BF16, F16, F32"):
        opened(folder)
