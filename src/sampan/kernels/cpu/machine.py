"""What the native extension runs on: threads, an instruction set, and sizes that its kernels fix."""

import warnings
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import OutOfMemory, UsageError, quoted
from sampan.core.settings import Settings, available_cores, checked_threads
from sampan.kernels.backend import PAGE
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]

assert _native.PAGE == PAGE
LANES: int = _native.LANES  # output features of one panel
BLOCK = 32  # of kernels.h: input features that share an activation's scale, and of a head in the cache
T = TypeVar("T", bound=np.generic)


class Operand(IntEnum):
    """What rows of activations hold (kernels.h)."""

    F32 = 0
    INT8 = 1
    BF16 = 2


@dataclass(frozen=True)
class Machine:
    """Threads and instruction set that kernels run with; `pool` is the native thread pool."""

    pool: Any
    isa: str

    @property
    def threads(self) -> int:
        """Threads that enter a step, the caller's included."""
        return int(self.pool.threads)


def machine(settings: Settings, threads: int | None = None) -> Machine:
    """Threads: the argument, `SAMPAN_THREADS`, or every core this process may use; more get a warning."""
    cores, count = available_cores(), _count(settings, threads)
    if count > cores:
        warnings.warn(f"{count} threads on {cores} cores wait for each other: use {cores}", stacklevel=2)
    try:
        isa = _native.isa(settings.isa or "")
    except (ValueError, TypeError) as e:
        names = ", ".join(_native.isas())
        raise UsageError(f"SAMPAN_ISA is {quoted(settings.isa)}: this machine runs {names}") from e
    try:
        return Machine(_native.Pool(count), isa)
    except RuntimeError as e:
        raise UsageError(f"{count} threads were asked for, and the system refused them: ask for fewer") from e


def _count(settings: Settings, threads: int | None) -> int:
    if threads is not None:
        return checked_threads(threads)
    if settings.threads is not None:
        return checked_threads(settings.threads, "SAMPAN_THREADS")
    return available_cores()


def padded(n: int) -> int:
    """`n` output features rounded up to whole panels."""
    return (n + LANES - 1) // LANES * LANES


def blocked(n: int) -> int:
    """`n` input features rounded up to whole blocks: what is behind them is zero in rows, and in weights."""
    return (n + BLOCK - 1) // BLOCK * BLOCK


def widened(values: NDArray[T], columns: int) -> NDArray[T]:
    """Rows with zeros behind them, up to so many columns."""
    if values.shape[1] == columns:
        return values
    wide = np.zeros((len(values), columns), values.dtype)
    wide[:, : values.shape[1]] = values
    return wide


def out_of_memory(what: str) -> OutOfMemory:
    """The error for memory that the system refused."""
    return OutOfMemory(f"no memory for {what}: use a smaller model, a shorter context or fewer sequences")
