"""Folders of FP8, GPTQ, AWQ and compressed-tensors: every value that their formulas give, bit for bit, and
refusals by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.core.types import ModelFiles
from sampan.kernels.formats import TensorType
from sampan.models.registry import load_file as module_at
from sampan.weights.checkpoint import Checkpoint, open_checkpoint

CASES = module_at(Path(__file__).parents[1] / "packers.py").CASES
Write = Callable[..., tuple[Path, dict[str, np.ndarray]]]
DOWN = "model.layers.0.mlp.down_proj"  # [64, 96]: no whole number of blocks, or of groups of 64
UP = "model.layers.0.mlp.up_proj"


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(ModelFiles(folder, "folder", folder.name, str(folder)))


@pytest.fixture(scope="module")
def folders(
    write_folder: Write, packers: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """`folders(case)`: a folder of that case, written once, and its values."""
    plain, _ = write_folder("llama", torch.bfloat16)
    known: dict[str, Any] = {}

    def make(case: str) -> tuple[Path, dict[str, np.ndarray]]:
        if case not in known:
            folder = tmp_path_factory.mktemp("quantised")
            values = packers.quantise(plain, folder, *CASES[case])
            known[case] = folder, {name: tensor.numpy() for name, tensor in values.items()}
        return known[case]

    return make


@pytest.fixture
def damaged(folders: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """`damaged(case, {tensor: new or None}, {option: value})`: a folder of a case, changed."""

    def make(case: str, tensors: dict[str, Any] | None = None, options: dict[str, Any] | None = None) -> Path:
        folder, _ = folders(case)
        found = load_file(folder / "model.safetensors") | (tensors or {})
        save_file(
            {k: v.contiguous() for k, v in found.items() if v is not None}, tmp_path / "model.safetensors"
        )
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] |= options or {}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


@pytest.mark.parametrize("case", CASES)
def test_every_value_is_the_formulas(folders: Callable[..., Any], case: str) -> None:
    folder, values = folders(case)
    with opened(folder) as checkpoint:
        assert checkpoint.tensors.keys() == values.keys()
        for name, expected in values.items():
            assert checkpoint.tensors[name].shape == expected.shape
            np.testing.assert_array_equal(checkpoint.array(name), expected)
            if expected.ndim == 2:
                np.testing.assert_array_equal(checkpoint.rows(name, 5, 29), expected[5:29])


@pytest.mark.parametrize("case", CASES)
def test_what_the_kernels_take_stands_for_the_same_values(folders: Callable[..., Any], case: str) -> None:
    folder, values = folders(case)
    with opened(folder) as checkpoint:
        for name, expected in values.items():
            info = checkpoint.tensors[name]
            if info.decoder is None:
                continue
            if info.form is None:
                raw = checkpoint.raw(name, 3, 30).view(np.uint16 if info.type is TensorType.BF16 else "u4")
                bits = raw.astype(np.uint32) << (16 if info.type is TensorType.BF16 else 0)
                found = bits.view(np.float32).reshape(27, -1)
            else:
                codes = checkpoint.codes(name, 3, 30)
                form = info.form
                assert (codes.bits, codes.group, codes.zero) == (form.bits, form.group, form.zero)
                assert (codes.minimum is not None) == form.has_min
                assert int(codes.q.max()) < 2**codes.bits
                assert form.wide or np.array_equal(codes.scale.astype(np.float16), codes.scale)
                found = codes.scale[:, :, None] * (
                    codes.q.reshape(27, -1, form.group) - np.float32(form.zero)
                )
                found += 0 if codes.minimum is None else codes.minimum[:, :, None]
                found = found.reshape(27, -1)
            np.testing.assert_array_equal(found, expected[3:30])


FORMS = {
    "gptq": (4, 32, 8, False, False),
    "gptq asymmetric": (4, 32, 0, True, True),
    "gptq rows": (4, 64, 8, False, False),
    "gptq bf16 scales": (4, 32, 8, True, False),
    "gptq 8 bits": (8, 32, 128, False, False),
    "gptq ordered": None,
    "awq": (4, 32, 0, True, True),
    "compressed 4": (4, 32, 8, True, False),
    "compressed int8": (8, 64, 128, True, False),
    "fp8": None,
}


@pytest.mark.parametrize("case", FORMS)
def test_codes_stay_codes_where_nothing_is_lost(folders: Callable[..., Any], case: str) -> None:
    with opened(folders(case)[0]) as checkpoint:
        form = checkpoint.tensors[f"{UP}.weight"].form
        found = form and (form.bits, form.group, form.zero, form.wide, form.has_min)
        assert found == FORMS[case]


@pytest.mark.parametrize(
    ("case", "type"),
    [("fp8", "F32"), ("fp8 bf16 scales", "F32"), ("fp8 ue8m0", "BF16"), ("fp8 powers", "BF16")],
)
def test_fp8_comes_out_as_the_smallest_float_that_loses_nothing(
    folders: Callable[..., Any], case: str, type: str
) -> None:
    with opened(folders(case)[0]) as checkpoint:
        assert checkpoint.tensors[f"{UP}.weight"].type.name == type


def test_zero_points_of_version_1_borrow_from_the_next_field(damaged: Any, packers: Any) -> None:
    zeros = torch.zeros(2, 96)
    zeros[:, 1::2] = 8  # stored less one: 15, 7 less the borrow of 1, ...
    ones = 0x11111111
    qzeros = packers.as_int32(packers.words(zeros, 4, 1).to(torch.int64) - ones)
    with opened(damaged("gptq asymmetric", {f"{UP}.qzeros": qzeros})) as checkpoint:
        codes = checkpoint.codes(f"{UP}.weight", 0, 96)
        expected = -codes.scale * zeros.T.numpy()
        np.testing.assert_array_equal(codes.minimum, expected)


def test_a_tensor_of_many_is_many_tensors_when_it_is_quantised(tmp_path: Path) -> None:
    """Rows of a decoder, from any row on."""
    from sampan.weights.naming import _parts
    from sampan.weights.quantised.reader import method_of, read
    from sampan.weights.safetensors import read_safetensors

    config, pack = CASES["gptq asymmetric"]
    tensors, values = pack(torch.randn(96, 64))
    save_file({f"m.{k}": v.contiguous() for k, v in tensors.items()}, tmp_path / "model.safetensors")
    method = method_of({"quantization_config": config}, "config.json")
    assert method is not None
    found = read(method, [read_safetensors(tmp_path / "model.safetensors", quantised=True)])
    parts = _parts(found["m.weight"], {"a": 40, "b": 56})
    b = parts["b"]
    assert b.decoder is not None
    assert (b.shape, b.first) == ((56, 64), 40)
    np.testing.assert_array_equal(b.decoder.values(b.first, b.first + 56), values[40:].numpy())


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
def test_a_missing_part_is_named(damaged: Any, case: str, name: str) -> None:
    folder = damaged(case, {name: None})
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
    damaged: Any, case: str, name: str, tensor: torch.Tensor, message: str
) -> None:
    folder = damaged(case, {name: tensor})
    with pytest.raises(WeightsError, match=rf"model\.safetensors: tensor '.*' at byte \d+ .*{message}"):
        opened(folder)


def test_a_type_that_is_no_part_of_the_method_is_named(damaged: Any) -> None:
    with pytest.raises(UnsupportedModel, match=r"qzeros' at byte \d+ is F32, readable is I32"):
        opened(damaged("gptq", {f"{UP}.qzeros": torch.ones(2, 12)}))
    with pytest.raises(
        UnsupportedModel, match="has dtype I32, which this quantization_config does not explain"
    ):
        opened(damaged("gptq", {f"{UP}.extra": torch.ones(2).int()}))


def test_values_that_are_not_finite_are_refused_where_they_are_read(damaged: Any) -> None:
    scales = torch.ones(2, 96).half()
    scales[1, 7] = torch.inf
    with opened(damaged("gptq", {f"{UP}.scales": scales})) as checkpoint:
        for read in (checkpoint.codes, checkpoint.rows):
            read(f"{UP}.weight", 8, 16)
            with pytest.raises(WeightsError, match=r"up_proj.* not finite"):
                read(f"{UP}.weight", 0, 8)


def test_a_module_that_the_list_leaves_out_is_not_quantised(damaged: Any) -> None:
    for case, option in (
        ("fp8", "modules_to_not_convert"),
        ("gptq", "modules_to_not_convert"),
        ("compressed 4", "ignore"),
    ):
        for entry in ("up_proj", UP, "model.layers.0"):
            with pytest.raises(WeightsError, match=r"is quantised, but the quantization_config leaves"):
                opened(damaged(case, options={option: ["lm_head", entry]}))
        opened(damaged(case, options={option: ["lm_head", "proj", "re:.*vision.*"]})).close()


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
    damaged: Any, case: str, options: dict[str, Any], message: str
) -> None:
    folder = damaged(case, options=options)
    with pytest.raises(UnsupportedModel, match=rf"config\.json: quantization_config.*{message}"):
        opened(folder)


def test_quantised_tensors_without_a_configuration_are_refused(damaged: Any) -> None:
    folder = damaged("gptq")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match=r"has dtype 'I32': readable are BF16, F16, F32"):
        opened(folder)
