"""Devices as torch names them: one that works or what there is, its memory, and numbers on it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from sampan.core.errors import OutOfMemory, UsageError, quoted
from sampan.kernels.tensors import Floats

_PLUGINS = {"npu": "torch_npu"}
NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "could not create a primitive")
"""What torch says where there is none; the last one is oneDNN's, of memory for its code."""


def device_named(name: str) -> torch.device:
    """A device that holds a tensor and gives it back, or `UsageError` with those that torch can see."""
    try:
        if plugin := _PLUGINS.get(name.split(":")[0]):
            with suppress(ImportError):
                import_module(plugin)
        device = torch.device(name)
        if device.type == "cpu" and device.index:
            raise ValueError("there is one cpu")
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # torch's own, and whatever a driver raises
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:120]
        said = f"device is {quoted(name)}, which torch cannot use ({reason})"
        raise UsageError(f"{said}: it sees {', '.join(visible())}") from error
    return device


def visible() -> Iterator[str]:
    """The cpu, and each accelerator with its name where its driver tells one."""
    yield "cpu"
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None:
        return
    for number in range(torch.accelerator.device_count()):
        name = ""
        with suppress(Exception):  # of a driver: a name is no reason to fail
            name = f" ({torch.get_device_module(kind).get_device_name(number)})"
        yield f"{kind.type}:{number}{name}"


@contextmanager
def room_for(what: str, device: torch.device) -> Iterator[None]:
    """`OutOfMemory` where the device has no room for `what`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        told = str(error).lower()
        if not isinstance(error, MemoryError) and not any(sign in told for sign in NO_MEMORY):
            raise
        advice = "use a smaller model, a shorter context or fewer sequences"
        raise OutOfMemory(f"no memory on {device} for {what}: {advice}") from error


def on_device(values: Floats, device: torch.device, dtype: torch.dtype) -> Tensor:
    """An array's values, which nothing else writes to."""
    return torch.from_numpy(np.require(values, np.float32, ["C", "W"])).to(device, dtype)
