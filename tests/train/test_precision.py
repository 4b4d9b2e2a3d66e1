"""Gradients go through bfloat16 where that is the quicker one."""

from typing import Any

import pytest
import torch

from sampan.train.precision import quick_dtype


@pytest.mark.parametrize(
    ("found", "dtype"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, torch.float32),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"cpu_name": "AMD Zen 4", "avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"cpu_name": "AMD Zen 3", "avx2": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_the_quicker_numbers(
    found: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert quick_dtype() == dtype
