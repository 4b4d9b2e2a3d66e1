"""New values in every format that a model's matrices may have: as near as the format is fine."""

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.core.settings import Settings
from sampan.kernels.cpu import _native
from sampan.kernels.cpu.layout import E4M3, STORES
from sampan.kernels.cpu.machine import machine
from sampan.kernels.cpu.panels import Place
from sampan.kernels.cpu.rounding import Scheme, quantise
from sampan.kernels.cpu.update import update
from sampan.kernels.formats import TensorType, form_of
from sampan.kernels.ops import Weight
from sampan.weights.update import Tensors, from_arrays, from_files

N, K, FIRST = 70, 512, 32
NAME = "model.layers.0.mlp.up_proj.weight"
WEIGHT = Weight(NAME, (N, K))
# Half a step of the codes, in parts of a group's range; the scale's own rounding (f16) is small beside it.
STEPS = {"Q4_0": 15, "Q4_1": 15, "Q5_0": 31, "Q5_1": 63, "Q8_0": 254, "Q2_K": 15, "Q3_K": 7, "Q4_K": 15}
STEPS |= {"Q5_K": 63, "Q6_K": 62, "TQ1_0": 2, "TQ2_0": 2, "MXFP4": 24, "IQ3_S": 30, "IQ3_XXS": 62}
STEPS |= {"IQ1_S": 18, "IQ1_M": 18}  # the others have codes of 8 bits, as Q8_0
HERE = machine(Settings(Path()), 2)


def values(seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).normal(0, 0.05, (N, K)).astype(np.float32)
    x[3, :64] = 0
    x[4, 64:128] = 0.25
    return x


def matrix_of(type: TensorType) -> Any:
    """Twice as many rows as the weight has, so that its neighbours' panels can be looked at."""
    form = form_of(type)
    if form is None:
        return _native.Packed.of(2 * N, K, type.number)
    store = STORES[form.bits]
    return _native.Packed(2 * N, K, store, form.group, form.wide, form.has_min, form.zero)


def rows_of(matrix: Any) -> np.ndarray:
    """The matrix as the kernels see it: its rows, looked up as an embedding's."""
    program = _native.Program(HERE.pool, "", 1, 1, "f32", [])
    program.reserve(4 * K)
    buffer = program.buffer(0, K)
    program.add("embed", {"matrix": matrix, "out": (buffer, 0)})
    found = []
    for row in range(2 * N):
        program.run([([row], 0, array("i", (0,)), 1, -1, (), -1, -1)])
        found.append(program.kept(buffer, 0, K, True).copy())
    return np.concatenate(found)


def write(matrix: Any, tensors: Tensors) -> None:
    update(tensors, {NAME: WEIGHT}, lambda _: Place(matrix, FIRST), HERE)


@pytest.mark.parametrize("type", TensorType, ids=lambda type: type.name)
def test_every_format_takes_new_values(type: TensorType) -> None:
    matrix, x = matrix_of(type), values()
    write(matrix, from_arrays({NAME: x}))
    found = rows_of(matrix)
    assert not found[:FIRST].any()
    assert not found[FIRST + N + 16 :].any()
    found = found[FIRST : FIRST + N]
    if type.quantised:
        groups = x.reshape(-1, matrix.group)
        low, high = groups.min(axis=1), groups.max(axis=1)
        span = high - low if matrix.has_min else 2 * np.maximum(high, -low)
        step = span / STEPS.get(type.name, 254) + 2e-3 * np.maximum(high, -low)
        wrong = np.abs(found.reshape(groups.shape) - groups).max(axis=1)
        most = 2.0 if type is TensorType.Q4_1 else 0.75  # a search for the least square cuts ends off
        assert (wrong <= most * step + 1e-7).all()
    else:
        assert np.abs(found - x).max() <= {"F32": 0, "F16": 2.0**-11, "BF16": 2.0**-8}[type.name] * 0.5
        write(matrix, from_arrays({NAME: found}))
        assert np.array_equal(rows_of(matrix)[FIRST : FIRST + N], found)


@pytest.mark.parametrize(("wide", "group"), [(True, 128), (False, 128), (False, 40)])
def test_e4m3_takes_the_nearest_codes_under_the_largest_value_of_a_block(wide: bool, group: int) -> None:
    matrix, x = _native.Packed(2 * N, K, E4M3, group, wide, False, 0), values()
    write(matrix, from_arrays({NAME: x}))
    found = rows_of(matrix)[FIRST : FIRST + N]
    for at in range(0, N, 1 if wide else 16):
        for k in range(0, K, group):
            rows, inputs = slice(at, at + (1 if wide else 16)), slice(k, k + group)
            scale = np.abs(x[rows, inputs]).max() / np.float32(448)
            if scale == 0:
                assert not found[rows, inputs].any()
                continue
            code = torch.from_numpy(x[rows, inputs] / scale).to(torch.float8_e4m3fn)
            np.testing.assert_array_equal(found[rows, inputs], code.float().numpy() * scale)


@pytest.mark.parametrize(("type", "bits"), [(TensorType.Q4_1, 4), (TensorType.Q8_0, 8)])
def test_the_usual_formats_are_rounded_as_quantize_rounds(type: TensorType, bits: int) -> None:
    matrix, x = matrix_of(type), values()
    write(matrix, from_arrays({NAME: x}))
    codes = quantise(x, Scheme(bits, 32))
    q, scale = codes.q.astype(np.float32) - codes.zero, np.repeat(codes.scale, 32, axis=1)
    low = 0 if codes.minimum is None else np.repeat(codes.minimum, 32, axis=1)
    assert np.array_equal(rows_of(matrix)[FIRST : FIRST + N], q * scale + low)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_files_and_arrays_of_every_width_are_read(tmp_path: Path, dtype: Any) -> None:
    x = values().astype(np.float16)
    matrix = matrix_of(TensorType.F32)
    write(matrix, from_arrays({NAME: x.astype(dtype)}))
    assert np.array_equal(rows_of(matrix)[FIRST : FIRST + N], x)
    if dtype is not np.float64:
        other = matrix_of(TensorType.F32)
        save_file({NAME: x.astype(dtype)}, tmp_path / "model.safetensors")
        for path in (tmp_path, tmp_path / "model.safetensors"):
            with from_files(path) as tensors:
                write(other, tensors)
            assert np.array_equal(other.data, matrix.data)


@pytest.mark.parametrize(
    ("type", "change", "what"),
    [
        (TensorType.F16, 1e5, "too large for float16"),
        (TensorType.Q4_1, 1e5, "too large for float16"),
        (TensorType.BF16, np.inf, "not finite"),
        (TensorType.Q6_K, np.nan, "not finite"),
    ],
)
def test_values_that_a_format_cannot_hold(type: TensorType, change: float, what: str) -> None:
    matrix, x = matrix_of(type), values()
    write(matrix, from_arrays({NAME: x}))
    before = matrix.data.copy()
    x = values(2)
    x[N - 1, K - 1] = change
    with pytest.raises(WeightsError, match=what):
        write(matrix, from_arrays({NAME: x}))
    assert np.array_equal(matrix.data, before)


def test_a_mapped_matrix_is_refused() -> None:
    own = matrix_of(TensorType.Q8_0)
    mapped = _native.Packed(own.n, own.k, own.store, own.group, own.wide, own.has_min, own.zero, own.data)
    with pytest.raises(UnsupportedModel, match="mapped from a file of packed weights"):
        write(mapped, from_arrays({NAME: values()}))


def test_a_file_is_closed_whatever_happens(tmp_path: Path) -> None:
    save_file({"other": np.ones((2, 2), np.float32)}, tmp_path / "some.safetensors")
    refuse: Callable[[], None] = lambda: write(matrix_of(TensorType.F32), tensors)  # noqa: E731
    with from_files(tmp_path / "some.safetensors") as tensors, pytest.raises(WeightsError, match="no place"):
        refuse()
    with pytest.raises(WeightsError, match="cannot be read"), from_files(tmp_path / "none.safetensors"):
        pass
