"""Quantised matrices are read some rows at a time, and their pages are given back."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sampan.models.registry import load_file
from sampan.weights.files import TensorInfo
from sampan.weights.quantised.reader import method_of, read
from sampan.weights.safetensors import read_safetensors

CASES = load_file(Path(__file__).parents[1] / "packers.py").CASES
LARGE = 4096
MIB = 2**20


def opened(folder: Path, config: Any, tensors: dict[str, torch.Tensor]) -> TensorInfo:
    path = folder / "model.safetensors"
    save_file({f"m.{name}": tensor.contiguous() for name, tensor in tensors.items()}, path)
    method = method_of({"quantization_config": config}, "config.json")
    assert method is not None
    return read(method, [read_safetensors(path, quantised=True)], lambda *_: False)["m.weight"]


def large(case: str) -> dict[str, torch.Tensor]:
    """Tensors of a matrix of 16 Mi weights, of any bits."""
    random = torch.Generator().manual_seed(1)
    word = torch.randint(-(2**31), 2**31, (LARGE // 8, LARGE), generator=random, dtype=torch.int64).int()
    groups = LARGE // 32
    match case:
        case "fp8":
            weight = torch.randint(0, 127, (LARGE, LARGE), generator=random).to(torch.uint8)
            return {"weight": weight.view(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(32, 32)}
        case "gptq asymmetric":
            qzeros = word[:groups, : LARGE // 8]
            return {"qweight": word, "qzeros": qzeros, "scales": torch.ones(groups, LARGE).half()}
    shape = torch.tensor([LARGE, LARGE])
    return {"weight_packed": word.T, "weight_scale": torch.ones(LARGE, groups).half(), "weight_shape": shape}


@pytest.mark.parametrize("case", ["fp8", "gptq asymmetric", "compressed 4"])
def test_some_rows_take_little_memory_and_none_afterwards(case: str, tmp_path: Path) -> None:
    info = opened(tmp_path, CASES[case][0], large(case))
    assert info.decoder is not None
    tracemalloc.start()
    for start in range(0, LARGE, 64):
        (info.decoder.codes if info.form else info.decoder.values)(start, start + 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB
    resident = psutil.Process().memory_info().rss
    info.decoder.release(0, LARGE)
    assert resident - psutil.Process().memory_info().rss > 0.8 * info.nbytes


SMALL = [
    "fp8 small blocks",
    "gptq asymmetric",
    "gptq ordered",
    "awq",
    "compressed 4 asymmetric",
    "compressed int8",
]
known: dict[str, tuple[TensorInfo, np.ndarray]] = {}


@settings(max_examples=120, deadline=None)
@given(case=st.sampled_from(SMALL), start=st.integers(0, 71), count=st.integers(1, 72))
def test_any_rows_are_the_same_as_all(tmp_path_factory: Any, case: str, start: int, count: int) -> None:
    """72 rows of 96 inputs: words hold fields of rows inside and outside of a range."""
    if case not in known:
        config, pack = CASES[case]
        tensors, values = pack(torch.randn(72, 96, generator=torch.Generator().manual_seed(3)))
        known[case] = opened(tmp_path_factory.mktemp("rows"), config, tensors), values.numpy()
    info, values = known[case]
    stop = min(start + count, 72)
    assert info.decoder is not None
    assert np.array_equal(info.decoder.values(start, stop), values[start:stop])
    if info.form is not None:
        codes = info.decoder.codes(start, stop)
        if info.form.rows:
            e4m3 = torch.from_numpy(codes.q.copy()).view(torch.float8_e4m3fn).float().numpy()
            found = e4m3 * codes.scale[:, np.arange(96) // codes.group]
            assert np.array_equal(found, values[start:stop])
            return
        q = codes.q.reshape(stop - start, -1, codes.group).astype(np.float32) - np.float32(codes.zero)
        found = codes.scale[:, :, None] * q
        found += 0 if codes.minimum is None else codes.minimum[:, :, None]
        assert np.array_equal(found.reshape(stop - start, -1), values[start:stop])
