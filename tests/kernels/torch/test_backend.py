"""Devices, types and files that the torch backend takes, and what it says of those that it does not."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sampan.core.errors import UnsupportedModel, UsageError
from sampan.kernels.backend import CacheSize
from sampan.kernels.formats import TensorType
from sampan.kernels.graph import Graph, Node
from sampan.kernels.torch import device
from sampan.kernels.torch.backend import TorchBackend

Make = Callable[..., Any]


@pytest.mark.parametrize("name", ["cuda", "cpu:3", "meta", "nowhere", "", "npu:0"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"device is '{name}', which torch cannot use .*: it sees cpu$"):
        TorchBackend(name)


def test_accelerators_are_listed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)

    def named(number: int) -> str:
        if number:
            raise RuntimeError("the driver says nothing")
        return "NVIDIA H100"

    module = type("Module", (), {"get_device_name": staticmethod(named)})
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    assert list(device.visible()) == ["cpu", "cuda:0 (NVIDIA H100)", "cuda:1"]


@pytest.mark.parametrize(
    ("given", "said"), [({"dtype": "f16"}, "f32 and bf16"), ({"threads": 0}, "1 or more")]
)
def test_options_that_make_no_sense_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TorchBackend(**given)


def test_a_cache_of_another_type_is_refused(small: Make) -> None:
    here = small()
    assert set(here.backend.needs(here.graph, here.memory, 8).page) == {"f32", "bf16"}
    with pytest.raises(UsageError, match="a cache of type 'int8': the torch backend has f32 and bf16"):
        here.backend.compile(here.graph, here.weights, CacheSize(2, "int8"), 8)


def test_packed_weights_are_refused_before_any_is_read(small: Make) -> None:
    here = small()
    here.memory.packed = {"1.q.weight": object()}
    with pytest.raises(UnsupportedModel, match=r"tensor 1\.q\.weight is packed for the native"):
        here.backend.needs(here.graph, here.memory, 8)


def test_an_operation_that_is_not_there_is_refused_by_name() -> None:
    graph = Graph((Node("_product", (), 1, sampled=False),), {})
    with pytest.raises(UnsupportedModel, match="a model: _product: the torch backend has no _product"):
        TorchBackend().check(graph, "a model")


@pytest.mark.parametrize(
    ("kind", "type", "dtype", "expected"),
    [
        ("cpu", TensorType.BF16, None, torch.float32),
        ("cuda", TensorType.BF16, None, torch.bfloat16),
        ("cuda", TensorType.F16, None, torch.bfloat16),
        ("cuda", TensorType.F32, None, torch.float32),
        ("cuda", TensorType.Q4_1, None, torch.float32),
        ("cuda", TensorType.Q4_1, "bf16", torch.bfloat16),
    ],
)
def test_the_type_suits_device_and_file(
    kind: str, type: TensorType, dtype: str | None, expected: torch.dtype, small: Make
) -> None:
    here, backend = small(), TorchBackend(dtype=dtype)
    backend.device, here.memory.type = torch.device(kind), type
    needs = backend.needs(here.graph, here.memory, 8)
    assert needs.weights == sum(a.size for a in here.memory.arrays.values()) * expected.itemsize
    assert needs.dtype == ("f32" if expected == torch.float32 else "bf16")


def test_bf16_is_near(small: Make, ids: Make, whole: Make) -> None:
    here, text = small(backend=TorchBackend(dtype="bf16"), cache="bf16"), ids(60)
    found = here.program.run([whole(text, here.pages(60), 60)])
    expected = here.expected(text)
    assert np.abs(found.logits - expected).max() <= 0.05 * np.ptp(expected)
    totals = np.log(np.exp(found.logits.astype(np.float64)).sum(-1))
    np.testing.assert_allclose(found.log_totals, totals, rtol=0, atol=2e-6)


def test_without_torch_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from sampan.core.errors import UsageError\n"
        "try:\n    import sampan.kernels.torch.backend\n"
        "except UsageError as error:\n    print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert "pip install 'sampan[train]'" in said.stdout
