"""What a model takes and how fast it will be here, before it is fetched: for `models show` and `doctor`.

Bytes are those that loading takes, from the backend's own plan. Seconds are the work of a step at the pace of
this machine's kernels, measured now (kernels/cpu/pace.py, work.py). Experts that memory does not hold are
read from disk: hit rates are those that others measured with frequency and recency as the rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sampan.catalog.catalog import Entry, configuration, entries
from sampan.catalog.store import CachedModel
from sampan.core.disk import read_rate, read_rate_of
from sampan.core.errors import OutOfMemory, UnsupportedModel, WeightsError
from sampan.core.memory import available_memory
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, SamplingParams
from sampan.engine.budget import Footprint
from sampan.kernels.backend import PAGE
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.cpu.pace import Pace
from sampan.kernels.cpu.survey import Survey, rounded, survey
from sampan.kernels.graph import Graph
from sampan.kernels.imagined import ImaginedTensors
from sampan.llm.generation import defaults_of
from sampan.llm.load import MAX_ROWS, graph_of, output_of
from sampan.models import registry
from sampan.models.config import ModelConfig
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.purpose import Purpose
from sampan.weights.unseen import of_checkpoint, published, published_block

CONTEXT = 2048
"""Tokens that a sequence has when it is timed, where the model holds as many."""
PROMPT = 512
HITS = ((0.0, 0.0), (0.03, 0.13), (0.06, 0.40), (0.12, 0.62), (0.24, 0.85), (0.48, 0.94), (1.0, 1.0))
"""Part of the experts in memory, and part of the asked ones that are found there (docs/performance.md)."""

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

Row = dict[str, Any]
Reader = Callable[[Graph], ImaginedTensors]


@dataclass(frozen=True)
class Model:
    """What is planned: a configuration, and its tensors at each precision, by name; the first is as they are
    published or lie on the disk. `sampling`: what holds where a user gives none."""

    name: str
    config: ModelConfig
    output: str
    precisions: Mapping[str, Reader]
    sampling: SamplingParams | None = None

    def survey(self, precision: str, backend: CpuBackend) -> Survey:
        """Bytes and work."""

        def first(layers: int) -> Graph:
            return graph_of(replace(self.config, layers=layers), self.output)

        return survey(first, self.config.layers, self.precisions[precision], backend, MAX_ROWS)


def show(name: str, entry: Entry | None, found: CachedModel | None, settings: Settings) -> Row:
    """`plan`, or why there is none, and the `machine` that it is for."""
    model, missing = None, "nothing of it is here, and the catalogue does not know its configuration"
    try:
        if found is not None:
            model = of_files(ModelFiles(found.path, found.kind, name, found.source))
        elif entry is not None:
            model, missing = of_catalogue(entry), entry.instead or missing
    except (UnsupportedModel, WeightsError) as error:
        missing = str(error)
    if model is None:
        return {"plan": None, "plan_missing": missing, "machine": None, "defaults": None}
    backend = CpuBackend(settings)
    pace = Pace(backend.machine)
    disk = disk_of(settings, None if found is None else found.path)
    if disk is None and settings.home.is_dir():
        disk = read_rate_of(settings.home)
    own = model.sampling
    return {
        "plan": plan(model, backend, pace, disk),
        "plan_missing": None,
        "machine": limits(backend),
        "defaults": None if own is None else {name: getattr(own, name) for name in _SAMPLING},
    }


def limits(backend: CpuBackend) -> Row:
    """Of the machine, measured now, under the names that `sampan doctor` has for them."""
    here = backend.machine
    bandwidth = _native.read_bandwidth(here.pool)
    if not bandwidth:
        raise OutOfMemory("no memory to measure the read bandwidth with: it takes 128 MB or more")
    int8, int8_instruction = _native.int8_peak(here.pool)
    floats, float_instruction = _native.float_peak(here.pool)
    return {
        "kernels": here.isa,
        "threads": here.threads,
        "read_gbps": bandwidth / 1e9,
        "int8_tops": int8 / 1e12,
        "bf16_tflops": floats / 1e12,
        "int8_instruction": int8_instruction,
        "bf16_instruction": float_instruction,
    }


def of_catalogue(entry: Entry) -> Model | None:
    """A model of which nothing is here; None where its published configuration is not known."""
    given = configuration(entry.alias)
    if given is None:
        return None
    config = registry.from_hf(given, f"the configuration of {entry.alias}")
    block = published_block(given)
    plain = {name: value for name, value in given.items() if name != "quantization_config"}
    own: dict[str, Reader] = {"bf16": lambda graph: published(graph, plain)}
    if block:
        own = {"fp8": lambda graph: published(graph, given), **own}
    return Model(entry.alias, config, output_of(Purpose()), own | _smaller(next(iter(own.values()))))


def of_files(files: ModelFiles) -> Model:
    """A model whose files are here; only what they say of its tensors is read."""
    with open_checkpoint(files) as checkpoint:
        name = files.name
    sampling = defaults_of(checkpoint.generation, files, vocabulary=checkpoint.config.vocab)
    own: dict[str, Reader] = {"as it is": lambda graph: of_checkpoint(graph, checkpoint)}
    smaller = {} if checkpoint.packed else _smaller(own["as it is"])
    return Model(name, checkpoint.config, output_of(checkpoint.purpose), own | smaller, sampling)


def _smaller(whole: Reader) -> dict[str, Reader]:
    return {f"{bits}-bit": lambda graph, b=bits: rounded(graph, whole(graph), b) for bits in (8, 4)}  # type: ignore[misc]


def plan(model: Model, backend: CpuBackend, pace: Pace, disk: float | None) -> Row:
    """Everything, at each precision."""
    context = min(CONTEXT, model.config.context)
    rows = [
        {"precision": name, **_sizes(model, found, context), **_speeds(found, pace, context, disk)}
        for name in model.precisions
        for found in [model.survey(name, backend)]
    ]
    return {
        "context": context,
        "prompt_tokens": PROMPT,
        "memory_bytes": available_memory(),
        "disk_gbps": gigabytes_a_second(disk),
        "precisions": rows,
    }


def outlines(backend: CpuBackend) -> list[Row]:
    """Of every model of the catalogue the smallest precision, for a sequence that has just begun."""
    pace, known, rows = Pace(backend.machine), dict[ModelConfig, Row](), []
    for entry in entries():
        model = of_catalogue(entry)
        if model is None:
            continue
        alike = replace(model.config, context=0)
        if alike not in known:
            name = list(model.precisions)[-1]
            found = model.survey(name, backend)
            speed = {"decode_tps": 1 / found.work.decode_seconds(pace, 0)}
            known[alike] = {"precision": name, **_sizes(model, found, CONTEXT), **speed}
        rows.append({"model": entry.alias, **known[alike]})
    return rows


def disk_of(settings: Settings, file: Path | None) -> float | None:
    """Bytes a second that the disk of a model, or of the cache, gives; None where that cannot be measured."""
    files = [file] if file and file.is_file() else sorted((file or settings.home / "models").rglob("*"))
    found = (read_rate(each) for each in files if each.is_file())
    return next((rate for rate in found if rate is not None), None)


def gigabytes_a_second(rate: float | None) -> float | None:
    """A rate of bytes."""
    return None if rate is None else rate / 1e9


def _sizes(model: Model, found: Survey, context: int) -> Row:
    size = Footprint.of(found.needs, model.name, model.config.context)
    free = available_memory()
    pages = -(-context // PAGE) + 1
    whole = size.fixed(1) + pages * size.page[size.dtype]
    work = found.work
    return {
        "weights_bytes": size.weights,
        "active_bytes": round(work.dense_bytes + work.chosen_bytes),
        "expert_bytes": work.expert_bytes,
        "workspace_bytes": size.fixed(1) - size.weights,
        "cache_bytes_per_1000_tokens": {kind: page * 1000 // PAGE for kind, page in size.page.items()},
        "whole_bytes": whole,
        "fits": None if free is None else whole <= free,
    }


def _speeds(found: Survey, pace: Pace, context: int, disk: float | None) -> Row:
    work = found.work
    return {
        "decode_tps": 1 / work.decode_seconds(pace, context),
        "prefill_tps": PROMPT / work.prefill_seconds(pace, PROMPT, MAX_ROWS),
        "experts_on_disk": _on_disk(found, pace, context, disk),
    }


def _on_disk(found: Survey, pace: Pace, context: int, disk: float | None) -> Row | None:
    """With as many experts in memory as there is room for; None where all or not even the rest fits."""
    work, needs, free = found.work, found.needs, available_memory()
    if not work.expert_bytes or disk is None or free is None:
        return None
    rest = needs.weights - work.expert_bytes + needs.workspace + needs.logits * 128
    room = free - rest - (context // PAGE + 2) * needs.page[needs.dtype]
    if room < work.chosen_bytes or room >= work.expert_bytes:
        return None
    part = room / work.expert_bytes
    hits = hit_rate(part)
    read = (1 - hits) * work.chosen_bytes
    return {
        "expert_memory_bytes": room,
        "cached_part": part,
        "hit_rate": hits,
        "read_bytes_per_token": round(read),
        "decode_tps": 1 / (work.decode_seconds(pace, context) + read / disk),
    }


def hit_rate(part: float) -> float:
    """Of experts asked for, with this part of all of them in memory: between the points of `HITS`."""
    for (low, before), (high, after) in pairwise(HITS):
        if part <= high:
            return before + (after - before) * (part - low) / (high - low)
    return 1.0
