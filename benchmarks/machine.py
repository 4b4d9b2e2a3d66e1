"""The machine in words: what figures must be quoted with."""

import os
import platform
from pathlib import Path
from typing import Any

from sampan.core.memory import total_memory
from sampan.core.settings import available_cores
from sampan.kernels.cpu import _native


def describe() -> dict[str, Any]:
    """Processor, cores, instruction set, memory and system."""
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "isa": _native.isa(),
        "flags": [flag for flag in ("avx512_vnni", "avx512_bf16", "amx_int8") if flag in _cpuinfo("flags")],
        "memory_bytes": total_memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "huge_pages": _first_line(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "python": platform.python_version(),
    }


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or os.uname().machine


def _cpuinfo(field: str) -> str:
    """A field of the first processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
