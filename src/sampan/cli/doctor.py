"""`sampan doctor`: this machine as Sampan sees it, and its limits, measured now.

`isa`: instruction sets with kernels that run here, best first; `kernels`: the one in use. `read_gbps`: 10^9
bytes a second from memory by all threads; `int8_tops`, `bf16_tflops`: 10^12 operations a second, a multiply
and an add being two, with the instructions named beside them (float ones where the machine has no bf16;
matrix units such as AMX are not measured). Other work on the machine lowers all three. `capacity`: of the
catalogue's models on this disk, the bytes they take and the tokens of cache that fit beside them. `tuning`:
what a measurement at a model's first load chose here (`kernels/cpu/tuning.py`), one object for each; those of
other machines, instruction sets and builds are left out. `disk_gbps`: direct reads by two threads, null where
they cannot be measured. `plan`: for every model of the catalogue, here or not, what it takes in its smallest
form and how fast a sequence that has just begun would be (`sampan models show` has the rest).
"""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sampan.catalog.catalog import cached, entries
from sampan.catalog.disk import gigabytes
from sampan.cli import plan_table
from sampan.cli.options import AsJson, Threads
from sampan.core.memory import available_memory, fits, total_memory
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles

if TYPE_CHECKING:
    from sampan.kernels.cpu.backend import CpuBackend

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
    from sampan.cli import planning
    from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
    from sampan.kernels.cpu.backend import CpuBackend
    from sampan.kernels.cpu.tuning import processor

    backend = CpuBackend(settings, threads)
    here, free = backend.machine, available_memory()
    return {
        "isa": _native.isas(),
        **planning.limits(backend),
        "memory_bytes": total_memory(),
        "memory_available_bytes": free,
        "disk_gbps": planning.gigabytes_a_second(planning.disk_of(settings, None)),
        "plan": planning.outlines(backend),
        "cpu": processor(),
        "fits": [entry.alias for entry in entries() if entry.supported and fits(entry.bytes)],
        "capacity": _capacity(settings, backend, free),
        "tuning": _tuning(settings, here.isa),
        "version": version("sampan"),
        "python": platform.python_version(),
    }


def _capacity(settings: Settings, backend: "CpuBackend", free: int | None) -> dict[str, Row]:
    """What the local models take, and the tokens that so much free memory holds beside them."""
    from sampan.engine.budget import Footprint
    from sampan.llm.load import MAX_ROWS, graph_of, output_of
    from sampan.weights.checkpoint import open_checkpoint

    found = {}
    for entry in entries():
        model = cached(entry.alias, settings)
        if not entry.supported or model is None or free is None:
            continue
        files = ModelFiles(model.path, model.kind, entry.alias, entry.source)
        with open_checkpoint(files) as checkpoint:
            config = checkpoint.config
            needs = backend.needs(graph_of(config, output_of(checkpoint.purpose)), checkpoint, MAX_ROWS)
            size = Footprint.of(needs, entry.alias, config.context)
        found[entry.alias] = {
            "weights_bytes": size.weights,
            "workspace_bytes": size.fixed(1) - size.weights,
            "cache_tokens": {dtype: max(0, size.tokens(free, 1, dtype)) for dtype in size.page},
        }
    return found


def _tuning(settings: Settings, isa: str) -> list[Row]:
    """What is stored for this machine, by model."""
    from sampan.kernels.cpu.tuning import machine_print, stored

    found = stored(settings.home, machine_print(isa))
    return [{"model": model, "cache": cache, **asdict(tuning)} for model, cache, tuning in found]


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
        "disk": "not measured" if row["disk_gbps"] is None else f"{row['disk_gbps']:.2f} GB/s",
        "memory": f"{_size(row['memory_bytes'])}, {_size(row['memory_available_bytes'])} available",
        "cache": f"{settings.home}{', offline' if settings.offline else ''}",
        "models that fit": ", ".join(row["fits"]) or "none of the catalogue",
        "cache that fits": _caches(row["capacity"]) or "no model is here yet",
        "too large": ", ".join(alias for alias in known if alias not in row["fits"])
        or "none of the catalogue",
        "tuning": _tunings(row["tuning"], settings),
        "planned": f"\n{'':<18}".join(plan_table.outlines(row["plan"])),
    }


def _caches(capacity: dict[str, Row]) -> str:
    """Tokens beside each local model."""
    found = []
    for alias, size in capacity.items():
        counts = {dtype: count for dtype, count in size["cache_tokens"].items() if dtype != "f32"}
        tokens = ", ".join(f"{count:,} tokens in {dtype}" for dtype, count in counts.items())
        found.append(f"beside {alias} {tokens}")
    return "; ".join(found)


def _tunings(rows: list[Row], settings: Settings) -> str:
    """One line a model."""
    if not settings.tune:
        return "off (SAMPAN_TUNE=0)"
    return f"\n{'':<18}".join(map(_tuned, rows)) or "nothing yet: a model's first load measures it"


def _tuned(row: Row) -> str:
    threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
    pages = "huge pages" if row["huge_pages"] else "small pages"
    drafts = f"drafts up to {row['draft_rows']} rows" if row["draft_rows"] else "no drafts"
    return (
        f"{row['model']}, {row['cache']} cache: {threads}, {pages}, direct up to {row['direct_rows']} rows, "
        f"row blocks of {row['row_block']}, chunks of {row['chunk_rows']}, {drafts}"
    )


def _size(value: int | None) -> str:
    return "?" if value is None else gigabytes(value)
