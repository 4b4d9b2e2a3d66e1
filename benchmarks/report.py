"""Figures to words: medians, ratios, targets and limits of what `run.py` recorded, as Markdown tables."""

import statistics
from dataclasses import dataclass, field
from typing import Any

from scenarios import PEERS, SAMPAN, SCENARIOS, Scenario, Target, Work, limit

Sample = dict[str, Any]
NAMES = {"q4_1": "SmolLM2-135M, Q4_1", "bf16": "SmolLM2-135M, bf16"}


@dataclass
class Row:
    """A scenario of a model. `ratios`: median of the samples' ratios, ours to each other series.

    `verdicts`: each target with what was reached and whether that meets it. `part`: of the machine's limit,
    and which limit.
    """

    model: str
    name: str
    scenario: Scenario
    medians: dict[str, float]
    ratios: dict[str, float]
    verdicts: list[tuple[Target, float, bool]] = field(default_factory=list)
    part: float | None = None
    bound: str = ""

    @property
    def best_peer(self) -> str | None:
        """The series that comes nearest to ours, or passes it furthest."""
        return min(self.ratios, key=lambda name: self.ratios[name]) if self.ratios else None


def summary(found: dict[str, Any]) -> list[Row]:
    """A row for every scenario that has a value of ours."""
    rows = []
    for model, record in found["models"].items():
        for name, scenario in SCENARIOS.items():
            samples = [s for s in record["scenarios"].get(name, []) if SAMPAN in s["values"]]
            if samples:
                rows.append(_row(model, name, scenario, samples, Work(**record["work"])))
    return rows


def _row(model: str, name: str, scenario: Scenario, samples: list[Sample], work: Work) -> Row:
    medians = {
        series: statistics.median(values)
        for series in scenario.series
        if (values := [s["values"][series]["value"] for s in samples if series in s["values"]])
    }
    ratios = {
        series: statistics.median(
            scenario.ratio(s["values"][SAMPAN]["value"], s["values"][series]["value"])
            for s in samples
            if series in s["values"]
        )
        for series in medians
        if series != SAMPAN
    }
    row = Row(model, name, scenario, medians, ratios)
    if model == "q4_1":
        row.verdicts = [v for target in scenario.targets if (v := _verdict(target, row, samples, work))]
    _add_limit(row, samples, work)
    return row


def _verdict(
    target: Target, row: Row, samples: list[Sample], work: Work
) -> tuple[Target, float, bool] | None:
    if target.against == "peak":
        return target, row.medians[SAMPAN], row.medians[SAMPAN] >= target.number
    if target.against == "file":
        cache = samples[0]["values"][SAMPAN]["cache_bytes"]
        times = (row.medians[SAMPAN] - cache) / work.file_bytes
        return target, times, times <= target.number
    if target.against not in row.ratios:
        return None
    return target, row.ratios[target.against], row.ratios[target.against] >= target.number


def _add_limit(row: Row, samples: list[Sample], work: Work) -> None:
    """Each sample is held to the limits measured just before it."""
    peak = "int8" if row.model == "q4_1" else "bf16"
    parts = []
    for sample in samples:
        best = limit(row.scenario.request, work, sample["limits"]["read"], sample["limits"][peak])
        if best is None:
            return
        parts.append(1 / row.scenario.ratio(best[0], sample["values"][SAMPAN]["value"]))
        row.bound = best[1]
    row.part = statistics.median(parts)


def shown(value: float, unit: str) -> str:
    """A figure with as many digits as it deserves."""
    if unit == "bytes":
        return f"{value / 1e6:.0f} MB"
    if unit == "part":
        return f"{value:.0%}"
    if unit == "s":
        return f"{value:.2f} s"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def line(scenario: Scenario, sample: Sample) -> str:
    """One sample, for the log."""
    values = (f"{name} {shown(v['value'], scenario.unit)}" for name, v in sample["values"].items())
    return f"{scenario.label}: {', '.join(values)}"


def markdown(found: dict[str, Any], rows: list[Row]) -> str:
    """A table for each model, the limits of the machine, and what the figures were measured with."""
    parts = [_heading(found)]
    for model in found["models"]:
        mine = [row for row in rows if row.model == model]
        beside = [row for row in mine if any(name in PEERS for name in row.medians)]
        alone = [row for row in mine if row not in beside]
        parts += [f"### {NAMES[model]}"] * bool(mine) + [_table(rows) for rows in (beside, alone) if rows]
        parts += [_memory(row, found["models"][model]) for row in mine if row.name == "memory"]
    parts.append(_limits(found))
    parts += [f"Not measured: {failure}" for failure in dict.fromkeys(found["failures"])]
    return "\n\n".join(parts) + "\n"


def _heading(found: dict[str, Any]) -> str:
    machine, versions = found["machine"], found["versions"]
    peers = {
        "llama_cpp": "llama-cpp-python",
        "openvino": "OpenVINO GenAI",
        "vllm": "vLLM",
        "sampan": "Sampan",
    }
    used = ", ".join(
        f"{name} {versions[key].split('-')[0]}" for key, name in peers.items() if key in versions
    )
    features = ", ".join([machine["isa"], *machine["flags"]])
    return (
        f"{machine['processor']}, {machine['cores']} cores ({features}), "
        f"{found['threads']} threads, {found['date']}; {used}; rounds: {found['rounds']}; "
        "medians, in tokens a second unless another unit is given."
    )


def _table(rows: list[Row]) -> str:
    names = [*dict.fromkeys(name for row in rows for name in row.medians if name != SAMPAN), SAMPAN]
    head = ["", *names, "ratio to the best", "target", "met", "part of the machine's limit"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [shown(row.medians[n], row.scenario.unit) if n in row.medians else "" for n in names]
        best = row.best_peer
        ratio = f"{row.ratios[best]:.2f}" if best else ""
        lines.append([row.scenario.label, *cells, ratio, *_target_cells(row), _limit_cell(row)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _memory(row: Row, record: dict[str, Any]) -> str:
    """What the peak consists of."""
    values = [sample["values"][SAMPAN] for sample in record["scenarios"][row.name]]
    parts = {"the file": record["work"]["file_bytes"]}
    parts["the cache"] = values[0]["cache_bytes"]
    parts["Python and its packages before loading"] = statistics.median(v["runtime_bytes"] for v in values)
    said = ", ".join(f"{name} {shown(size, 'bytes')}" for name, size in parts.items())
    return f"Beside the peak: {said}."


def _target_cells(row: Row) -> list[str]:
    """The targets, and what was reached of each."""
    words = {"peak": "≥ {:.0%}", "file": "≤ {:.1f} × the file + the cache"}
    asked = [words.get(t.against, "≥ {:.1f} × " + t.against).format(t.number) for t, _, _ in row.verdicts]
    reached = [
        f"{'yes' if met else '**no**'} ({shown(value, 'part') if t.against == 'peak' else f'{value:.2f}'})"
        for t, value, met in row.verdicts
    ]
    return ["; ".join(asked), "; ".join(reached)]


def _limit_cell(row: Row) -> str:
    return "" if row.part is None else f"{row.part:.0%} ({row.bound})"


def _limits(found: dict[str, Any]) -> str:
    every = [
        sample["limits"]
        for record in found["models"].values()
        for samples in record["scenarios"].values()
        for sample in samples
    ]
    if not every:
        return "No round was finished."
    units = {"read": ("read bandwidth", 1e9, "GB/s"), "int8": ("int8 products", 1e12, "TOPS")}
    units["bf16"] = ("bf16 products", 1e12, "TFLOPS")
    said = []
    for key, (name, scale, unit) in units.items():
        values = [one[key] / scale for one in every]
        said.append(f"{name} {statistics.median(values):.2f} {unit} ({min(values):.2f} to {max(values):.2f})")
    return f"Limits of the machine, measured {len(every)} times between the rest: {', '.join(said)}."
