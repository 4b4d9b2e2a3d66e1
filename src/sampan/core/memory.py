"""How much memory there is, which models it holds, and how amounts are written."""

import os
import re
from pathlib import Path

from sampan.core.errors import UsageError, quoted

# Weights as they are downloaded, and a fifth on top for the cache of keys and values and the program.
_ROOM = 1.2
_MOST = 2**62  # no machine has as much
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) *(?:([kmgt])(i?)b|b?)", re.IGNORECASE)


def parse_bytes(amount: int | str) -> int:
    """Bytes: a number of them, or a text such as "4GiB" (2^30 a unit), "800MB" (10^6) or "1.5 GB".

    Raises `UsageError` for anything else; "4G" is refused, because some read it one way and some the other.
    """
    if isinstance(amount, int) and not isinstance(amount, bool):
        size = amount
    else:
        found = _AMOUNT.fullmatch(amount.strip()) if isinstance(amount, str) else None
        number, unit, binary = found.groups(default="") if found else ("0", "", "")
        bytes_each = (1024 if binary else 1000) ** " kmgt".index(unit.lower() or " ")
        size = int(min(float(number) * bytes_each, _MOST))
    if 0 < size < _MOST:
        return size
    raise UsageError(f"{quoted(amount)} is no amount of memory: write it as 4GiB, 800MB or a number of bytes")


def megabytes(size: int) -> str:
    """`size` bytes for people, in MB or GB of powers of ten."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def total_memory() -> int | None:
    """Bytes that this process may use at most: the machine's, or its container's; None where nobody says."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    limit = _container_limit()
    return machine if limit is None else min(machine, limit)


def available_memory() -> int | None:
    """Bytes to be had without swapping: Linux's estimate, or what a container has left; None elsewhere."""
    machine = _field(_MEMINFO, "MemAvailable:", 1024)
    limit, used = _container_limit(), _read(_CGROUP / "memory.current").strip()
    if machine is None or limit is None or not used.isdigit():
        return machine
    # Cached files count as used, and can be dropped.
    files = _field(_CGROUP / "memory.stat", "inactive_file") or 0
    return max(0, min(machine, limit - int(used) + files))


def resident_memory() -> int:
    """Bytes of this process that are in memory; 0 where nobody says."""
    return _field(Path("/proc/self/status"), "VmRSS:", 1024) or 0


def fits(size: int | None) -> bool | None:
    """Whether a model with a download of `size` bytes runs here; None when size or memory is not known."""
    memory = total_memory()
    return None if size is None or memory is None else size * _ROOM <= memory


def give_back_freed_memory() -> None:
    """Return what Python has freed to the system, where the C library can (glibc's malloc_trim)."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_for_good() -> None:
    """Take all that is there now out of the garbage collector's sight: with a vocabulary and a web framework
    a full collection takes 0.1 s, in which a service does nothing else."""
    import gc

    gc.collect()
    gc.freeze()


def _container_limit() -> int | None:
    limit = _read(_CGROUP / "memory.max").strip()
    return int(limit) if limit.isdigit() else None


def _field(path: Path, name: str, unit: int = 1) -> int | None:
    for line in _read(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdigit():
            return int(words[1]) * unit
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
