"""`sampan doctor`: this machine as Sampan sees it, and its limits, measured now.

`isa`: instruction sets with kernels that run here, best first; `kernels`: the one in use. `read_gbps`: 10^9
bytes a second from memory by all threads; `int8_tops`, `bf16_tflops`: 10^12 operations a second, a multiply
and an add being two, with the instructions named beside them (float ones where the machine has no bf16;
matrix units such as AMX are not measured). Other work on the machine lowers all three.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sampan.catalog.catalog import entries
from sampan.catalog.disk import gigabytes
from sampan.cli.options import AsJson, Threads
from sampan.core.errors import OutOfMemory
from sampan.core.memory import available_memory, fits, total_memory
from sampan.core.settings import Settings

Row = dict[str, Any]


def command(threads: Threads = None, as_json: AsJson = False) -> None:
    """What this machine has, what it can do at best, and which models fit."""
    settings = Settings.from_env()
    row = _examine(settings, threads)
    if as_json:
        print(json.dumps(row, ensure_ascii=False))
        return
    for name, value in _words(row, settings).items():
        print(f"{name:<17} {value}")


def _examine(settings: Settings, threads: int | None) -> Row:
    from sampan.kernels import _native  # type: ignore[attr-defined]
    from sampan.kernels.native import machine

    here = machine(settings, threads)
    bandwidth = _native.read_bandwidth(here.pool)
    if not bandwidth:
        raise OutOfMemory("no memory to measure the read bandwidth with: it takes 128 MB or more")
    int8, int8_instruction = _native.int8_peak(here.pool)
    floats, float_instruction = _native.float_peak(here.pool)
    return {
        "isa": _native.isas(),
        "kernels": here.isa,
        "threads": here.threads,
        "read_gbps": bandwidth / 1e9,
        "int8_tops": int8 / 1e12,
        "bf16_tflops": floats / 1e12,
        "memory_bytes": total_memory(),
        "memory_available_bytes": available_memory(),
        "int8_instruction": int8_instruction,
        "bf16_instruction": float_instruction,
        "cpu": _cpu(),
        "fits": [entry.alias for entry in entries() if entry.supported and fits(entry.bytes)],
        "version": version("sampan"),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    """The processor's name, as Linux gives it; otherwise its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _words(row: Row, settings: Settings) -> dict[str, str]:
    known = [entry.alias for entry in entries() if entry.supported]
    return {
        "Sampan": f"{row['version']} (Python {row['python']}, {platform.system()} {platform.machine()})",
        "processor": row["cpu"],
        "instruction sets": ", ".join(row["isa"]),
        "kernels": row["kernels"],
        "threads": str(row["threads"]),
        "read bandwidth": f"{row['read_gbps']:.1f} GB/s",
        "int8 peak": f"{row['int8_tops']:.2f} TOPS ({row['int8_instruction']})",
        "bf16 peak": f"{row['bf16_tflops']:.2f} TFLOPS ({row['bf16_instruction']})",
        "memory": f"{_size(row['memory_bytes'])}, {_size(row['memory_available_bytes'])} available",
        "cache": f"{settings.home}{', offline' if settings.offline else ''}",
        "models that fit": ", ".join(row["fits"]) or "none of the catalogue",
        "too large": ", ".join(alias for alias in known if alias not in row["fits"])
        or "none of the catalogue",
    }


def _size(value: int | None) -> str:
    return "?" if value is None else gigabytes(value)
