"""Backends by name, imported when one is asked for."""

from typing import Any

from sampan.core.errors import UsageError, quoted
from sampan.core.settings import Settings

BACKENDS = ("cpu", "torch")


def backend_named(name: object, device: str | None, settings: Settings, threads: int | None) -> Any:
    """The backend `name`. `device`: what torch calls a device, for that backend alone.

    Raises `UsageError` for a backend or a device that there is not, and says what there is.
    """
    if name == "cpu":
        if device not in (None, "cpu"):
            raise UsageError(
                f"device is {quoted(device)}: the native kernels run on the cpu; choose backend torch"
            )
        from sampan.kernels.cpu.backend import CpuBackend

        return CpuBackend(settings, threads)
    if name == "torch":
        from sampan.kernels.torch.backend import TorchBackend

        return TorchBackend(device or "cpu", threads)
    raise UsageError(f"backend is {quoted(name)}: {' and '.join(BACKENDS)} are there")
