"""How much memory there is, and which models it holds."""

import os
from pathlib import Path

# Weights as they are downloaded, and a fifth on top for the cache of keys and values and the program.
_ROOM = 1.2
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MEMINFO = Path("/proc/meminfo")


def total_memory() -> int | None:
    """Bytes that this process may use at most: the machine's, or its container's; None where nobody says."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    limit = _read(_LIMIT).strip()
    return min(machine, int(limit)) if limit.isdigit() else machine


def available_memory() -> int | None:
    """Bytes that can be had without swapping (Linux's estimate, `MemAvailable`); None elsewhere."""
    for line in _read(_MEMINFO).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def fits(size: int | None) -> bool | None:
    """Whether a model with a download of `size` bytes runs here; None when size or memory is not known."""
    memory = total_memory()
    return None if size is None or memory is None else size * _ROOM <= memory


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
