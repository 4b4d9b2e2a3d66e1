"""Folders of FP8, GPTQ, AWQ and compressed-tensors: every value that their formulas give, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sampan.core.types import ModelFiles
from sampan.kernels.formats import Codes, Form, TensorType
from sampan.models.registry import load_file as module_at
from sampan.weights.checkpoint import Checkpoint, open_checkpoint
from sampan.weights.naming import _parts
from sampan.weights.quantised.reader import method_of, read
from sampan.weights.safetensors import Safetensors, read_safetensors

CASES = module_at(Path(__file__).parents[1] / "packers.py").CASES
UP = "model.layers.0.mlp.up_proj"


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(ModelFiles(folder, "folder", folder.name, str(folder)))


def shard(folder: Path) -> Safetensors:
    return read_safetensors(folder / "model.safetensors", quantised=True)


@pytest.mark.parametrize("case", CASES)
def test_every_value_is_the_formulas(quantised_folder: Callable[..., Any], case: str) -> None:
    folder, values = quantised_folder(case)
    with opened(folder) as checkpoint:
        assert checkpoint.tensors.keys() == values.keys()
        for name, expected in values.items():
            assert checkpoint.tensors[name].shape == expected.shape
            np.testing.assert_array_equal(checkpoint.array(name), expected)
            if expected.ndim == 2:
                np.testing.assert_array_equal(checkpoint.rows(name, 5, 29), expected[5:29])


def assert_e4m3(codes: Codes, form: Form, expected: np.ndarray) -> None:
    values = torch.from_numpy(codes.q.copy()).view(torch.float8_e4m3fn).float().numpy()
    places = np.arange(expected.shape[1]) // form.group
    np.testing.assert_array_equal(values * codes.scale[:, places], expected)
    assert form.wide or all(len(np.unique(codes.scale[at : at + 13], axis=0)) == 1 for at in (0, 13))


@pytest.mark.parametrize("case", CASES)
def test_what_the_kernels_take_stands_for_the_same_values(
    quantised_folder: Callable[..., Any], case: str
) -> None:
    folder, values = quantised_folder(case)
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
                if form.rows:
                    assert_e4m3(codes, form, expected[3:30])
                    continue
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


def test_what_a_tensor_was_rounded_to_is_known(quantised_folder: Callable[..., Any]) -> None:
    for case, name in (("fp8", "fp8"), ("gptq", "gptq"), ("compressed 4", "compressed-tensors")):
        with opened(quantised_folder(case)[0]) as checkpoint:
            assert checkpoint.rounded(f"{UP}.weight") == name
            assert checkpoint.rounded("model.embed_tokens.weight") == ""


FORMS = {
    "gptq": (4, 32, 8, False, False),
    "gptq asymmetric": (4, 32, 0, True, True),
    "gptq rows": (4, 64, 8, False, False),
    "gptq bf16 scales": (4, 32, 8, True, False),
    "gptq 8 bits": (8, 32, 128, False, False),
    "gptq ordered": None,
    "gptq f32 scales": None,  # a product of 24 bits and a zero point is rounded
    "awq": (4, 32, 0, True, True),
    "compressed 4": (4, 32, 8, True, False),
    "compressed int8": (8, 64, 128, True, False),
    "fp8": (8, 64, 0, False, False),
    "fp8 small blocks": (8, 40, 0, False, False),
    "compressed fp8": (8, 64, 0, True, False),
}


@pytest.mark.parametrize("case", FORMS)
def test_codes_stay_codes_where_nothing_is_lost(quantised_folder: Callable[..., Any], case: str) -> None:
    with opened(quantised_folder(case)[0]) as checkpoint:
        form = checkpoint.tensors[f"{UP}.weight"].form
        found = form and (form.bits, form.group, form.zero, form.wide, form.has_min)
        assert found == FORMS[case]


@pytest.mark.parametrize(
    ("case", "type"),
    [("fp8", "F32"), ("fp8 bf16 scales", "F32"), ("fp8 ue8m0", "BF16"), ("fp8 powers", "BF16")],
)
def test_fp8_comes_out_as_the_smallest_float_that_loses_nothing(
    quantised_folder: Callable[..., Any], case: str, type: str
) -> None:
    with opened(quantised_folder(case)[0]) as checkpoint:
        assert checkpoint.tensors[f"{UP}.weight"].type.name == type


@pytest.mark.parametrize(("zero", "has_min"), [(0, True), (1, False), (7, False), (15, True)])
def test_a_zero_point_at_either_end_becomes_a_minimum(changed_folder: Any, zero: int, has_min: bool) -> None:
    """New values could otherwise have one sign only."""
    words = torch.full((2, 12), (zero * 0x11111111 + 2**31) % 2**32 - 2**31, dtype=torch.int32)
    with opened(changed_folder("gptq v2", {f"{UP}.qzeros": words})) as checkpoint:
        form = checkpoint.tensors[f"{UP}.weight"].form
        assert form is not None
        assert (form.has_min, form.zero) == (has_min, 0 if has_min else zero)


@pytest.mark.parametrize(
    ("code", "type"), [(0, "F32"), (26, "F32"), (28, "BF16"), (225, "BF16"), (226, "F32"), (245, "F32")]
)
def test_powers_of_two_that_bf16_might_not_hold_come_out_as_float32(
    changed_folder: Any, code: int, type: str
) -> None:
    """2^(code - 127) times 2^-9 to 448; its largest finite number is just below 2^128."""
    scale = torch.full((1, 1), code, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    with opened(changed_folder("fp8 ue8m0", {f"{UP}.weight_scale_inv": scale})) as checkpoint:
        assert checkpoint.tensors[f"{UP}.weight"].type.name == type


def test_fp8_is_what_transformers_makes_of_it(packers: Any, tmp_path: Path) -> None:
    """Its own code wants whole blocks."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    w = torch.randn(256, 384, generator=torch.Generator().manual_seed(4)) * 0.05
    for dtype in (torch.float32, torch.bfloat16, torch.float8_e8m0fnu):
        tensors, _ = packers.fp8((128, 128), dtype=dtype, powers=dtype.itemsize == 1)(w)
        save_file({f"m.{k}": v for k, v in tensors.items()}, tmp_path / "model.safetensors")
        info = read(method_of({"quantization_config": packers.FP8}, ""), [shard(tmp_path)], lambda *_: False)[
            "m.weight"
        ]
        expected = Fp8Dequantize(None)._dequantize_one(
            tensors["weight"], tensors["weight_scale_inv"], torch.float32
        )
        np.testing.assert_array_equal(info.decoder.values(0, 256), expected.numpy())


def test_zero_points_of_version_1_borrow_from_the_next_field(changed_folder: Any, packers: Any) -> None:
    zeros = torch.zeros(2, 96)
    zeros[:, 1::2] = 8  # stored less one: 15, 7 less the borrow of 1, ...
    ones = 0x11111111
    qzeros = packers.as_int32(packers.words(zeros, 4, 1).to(torch.int64) - ones)
    with opened(changed_folder("gptq asymmetric", {f"{UP}.qzeros": qzeros})) as checkpoint:
        codes = checkpoint.codes(f"{UP}.weight", 0, 96)
        expected = -codes.scale * zeros.T.numpy()
        np.testing.assert_array_equal(codes.minimum, expected)


def test_a_tensor_of_many_is_many_tensors_when_it_is_quantised(tmp_path: Path) -> None:
    """Rows of a decoder, from any row on."""
    config, pack = CASES["gptq asymmetric"]
    tensors, values = pack(torch.randn(96, 64))
    save_file({f"m.{k}": v.contiguous() for k, v in tensors.items()}, tmp_path / "model.safetensors")
    method = method_of({"quantization_config": config}, "config.json")
    assert method is not None
    found = read(method, [shard(tmp_path)], lambda *_: False)
    parts = _parts(found["m.weight"], {"a": 40, "b": 56})
    b = parts["b"]
    assert b.decoder is not None
    assert (b.shape, b.first) == ((56, 64), 40)
    np.testing.assert_array_equal(b.decoder.values(b.first, b.first + 56), values[40:].numpy())


def test_experts_that_lie_in_one_tensor_have_blocks_of_their_own(packers: Any, tmp_path: Path) -> None:
    """[experts, rows, inputs] with rows that are no whole number of blocks."""
    pack = packers.fp8((48, 40))
    experts = [pack(torch.randn(70, 100, generator=torch.Generator().manual_seed(n))) for n in range(3)]
    tensors = {k: torch.stack([part[k] for part, _ in experts]) for k in experts[0][0]}
    save_file({f"m.{k}": v for k, v in tensors.items()}, tmp_path / "model.safetensors")
    config = packers.FP8 | {"weight_block_size": [48, 40]}
    method = method_of({"quantization_config": config}, "config.json")
    assert method is not None
    info = read(method, [shard(tmp_path)], lambda *_: False)["m.weight"]
    assert info.shape == (3, 70, 100)
    expected = torch.stack([values for _, values in experts]).reshape(210, 100).numpy()
    assert info.decoder is not None
    np.testing.assert_array_equal(info.decoder.values(0, 210), expected)
    np.testing.assert_array_equal(info.decoder.values(65, 150), expected[65:150])
