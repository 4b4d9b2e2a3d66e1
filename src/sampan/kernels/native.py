"""The native extension, typed, and what it runs on."""

import os
import warnings
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from sampan.core.errors import OutOfMemory, UsageError
from sampan.core.settings import Settings
from sampan.kernels import _native  # type: ignore[attr-defined]

PAGE: int = _native.PAGE  # tokens of one KV page
LANES: int = _native.LANES  # output features of one panel


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
    count, cores = threads or settings.threads or available_cores(), available_cores()
    if count < 1:
        raise UsageError(f"{count} threads were asked for: ask for 1 or more")
    if count > cores:
        warnings.warn(f"{count} threads on {cores} cores wait for each other: use {cores}", stacklevel=2)
    try:
        isa = _native.isa(settings.isa or "")
    except ValueError as e:
        names = ", ".join(_native.isas())
        raise UsageError(f"SAMPAN_ISA is {settings.isa!r}: this machine runs {names}") from e
    try:
        return Machine(_native.Pool(count), isa)
    except RuntimeError as e:
        raise UsageError(f"{count} threads were asked for, and the system refused them: ask for fewer") from e


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def padded(n: int) -> int:
    """`n` output features rounded up to whole panels."""
    return (n + LANES - 1) // LANES * LANES


def out_of_memory(what: str) -> OutOfMemory:
    """The error for memory that the system refused."""
    return OutOfMemory(f"no memory for {what}: use a smaller model, a shorter context or fewer sequences")
