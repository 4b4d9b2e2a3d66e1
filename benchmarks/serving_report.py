"""What `serving.py` recorded, as Markdown and as a picture: medians over rounds, ratios taken within each."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import plot
from report import Row
from scenarios import LLAMA_CPP, OPENVINO, SAMPAN, Scenario, Target

Sample = dict[str, Any]
SHARE, ADDED_S, HEALTH_S = 0.9, 0.010, 0.050  # what issue 4 asks for


@dataclass(frozen=True)
class Measure:
    """A line of the table: where its value is in a server's record. `least`: how many times better ours must
    be."""

    label: str
    part: str
    value: tuple[str, ...]
    unit: str
    least: float | None = None

    def of(self, sample: Sample, name: str) -> float | None:
        """A server's value in a round; None where there is none."""
        value = sample.get(name, {}).get(self.part)
        for key in self.value:
            value = None if value is None else value[key]
        return value

    def scenario(self) -> Scenario:
        """As the picture of `plot.py` knows it."""
        against = () if self.least is None else (LLAMA_CPP, OPENVINO)
        targets = tuple(Target(name, self.least or 1.0) for name in against)
        return Scenario(self.label, "t/s" if self.unit == "t/s" else "s", {}, {}, targets)


def measures(load: dict[str, int]) -> list[Measure]:
    """The lines, in their order."""
    many = f"{load['clients']} clients"
    return [
        Measure(f"tokens a second, {many}", "many", ("tokens_per_s",), "t/s", 2.0),
        Measure(f"first token, {many}, p50", "many", ("ttft_s", "p50"), "ms"),
        Measure(f"first token, {many}, p99", "many", ("ttft_s", "p99"), "ms", 1.0),
        Measure(f"between tokens, {many}, p50", "many", ("gap_s", "p50"), "ms"),
        Measure(f"between tokens, {many}, p99", "many", ("gap_s", "p99"), "ms"),
        Measure("tokens a second, 1 client", "one", ("tokens_per_s",), "t/s"),
        Measure("first token, 1 client, p50", "one", ("ttft_s", "p50"), "ms"),
        Measure("first token, 1 client, p99", "one", ("ttft_s", "p99"), "ms"),
        Measure("between tokens, 1 client, p50", "one", ("gap_s", "p50"), "ms"),
        Measure("start to first answer of /v1/models", "load_s", (), "ms"),
    ]


def rows(found: dict[str, Any]) -> list[tuple[Measure, Row]]:
    """A row for every measure that Sampan has a value of."""
    lines = [(measure, _row(measure, found["samples"])) for measure in measures(found["load"])]
    return [(measure, row) for measure, row in lines if SAMPAN in row.medians]


def _row(measure: Measure, samples: list[Sample]) -> Row:
    scenario = measure.scenario()
    values = {
        name: [
            (place, value) for place, s in enumerate(samples) if (value := measure.of(s, name)) is not None
        ]
        for name in (LLAMA_CPP, OPENVINO, SAMPAN)
    }
    medians = {name: statistics.median(v for _, v in of) for name, of in values.items() if of}
    ours = dict(values[SAMPAN])
    ratios = {
        name: statistics.median(both)
        for name in medians
        if name != SAMPAN
        and (both := [scenario.ratio(ours[place], v) for place, v in values[name] if place in ours])
    }
    verdicts = [
        (target, ratios[target.against], ratios[target.against] >= target.number)
        for target in scenario.targets
        if target.against in ratios
    ]
    return Row("q4_1", measure.label, scenario, medians, ratios, verdicts)


def markdown(found: dict[str, Any]) -> str:
    """The servers side by side, what the service costs, and the full queue."""
    parts = [_heading(found), _table(rows(found)), _own(found), _faults(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def picture(found: dict[str, Any]) -> str:
    """How many times better than each peer, in the look of `plot.py`."""
    return plot.picture({"models": {"q4_1": {}}}, [row for _, row in rows(found)])


def _heading(found: dict[str, Any]) -> str:
    machine, load = found["machine"], found["load"]
    features = ", ".join([machine["isa"], *machine["flags"]])
    return (
        f"{machine['processor']}, {machine['cores']} cores ({features}), {load['threads']} threads, "
        f"{found['date']}; {'; '.join(found['versions'].values())}. "
        f"Prompts of about {load['prompt_tokens']} tokens, answers of {load['decode_tokens']}; "
        f"{load['clients']} clients with {load['per_client']} requests each, then one client with "
        f"{load['singles']}; rounds: {len(found['samples'])}; medians over rounds."
    )


def _table(lines: list[tuple[Measure, Row]]) -> str:
    names = [n for n in (LLAMA_CPP, OPENVINO, SAMPAN) if any(n in row.medians for _, row in lines)]
    head = ["", *names, "times as good as the best peer", "target", "met"]
    table = [head, ["---"] * len(head)]
    for measure, row in lines:
        cells = [_shown(row.medians[n], measure.unit) if n in row.medians else "" for n in names]
        ratio = f"{row.ratios[row.best_peer]:.2f}" if row.best_peer else ""
        asked = "; ".join(f"≥ {t.number:g} × {t.against}" for t, _, _ in row.verdicts)
        met = "; ".join(f"{_said(good)} ({value:.2f})" for _, value, good in row.verdicts)
        table.append([measure.label, *cells, ratio, asked, met])
    return _joined(table)


def _own(found: dict[str, Any]) -> str:
    """What Sampan's service is held to by itself."""
    table = [["", "measured", "target", "met"], ["---"] * 4]
    ours = [sample[SAMPAN] for sample in found["samples"] if SAMPAN in sample]
    if ours:
        share = statistics.median(o["many"]["tokens_per_s"] / o["engine"]["tokens_per_s"] for o in ours)
        alone = statistics.median(o["engine"]["tokens_per_s"] for o in ours)
        said = f"{share:.1%} of {alone:.0f} t/s"
        table.append(["of the engine's own throughput", said, f"≥ {SHARE:.0%}", _said(share >= SHARE)])
        added = sorted(served - engine for o in ours for served, engine in o["pairs"])
        middle = statistics.median(added)
        low, high = added[len(added) // 4], added[-1 - len(added) // 4]
        said = f"{_ms(middle)} (quartiles {_ms(low)} and {_ms(high)}, {len(added)} pairs)"
        table.append(
            ["added to the first token, 1 client", said, f"< {_ms(ADDED_S)}", _said(middle < ADDED_S)]
        )
    if flood := found.get("flood"):
        table += _flood(flood)
    return _joined(table) if len(table) > 2 else ""


def _flood(flood: dict[str, Any]) -> list[list[str]]:
    full, arriving = flood["health_full_s"], flood["health_arriving_s"]
    good = full["p99"] < HEALTH_S and not flood["health_failed"]
    health = f"p50 {_ms(full['p50'])}, p99 {_ms(full['p99'])}, worst {_ms(full['max'])}"
    while_arriving = f"p50 {_ms(arriving['p50'])}, p99 {_ms(arriving['p99'])}"
    refused = sum(flood["statuses"].values())
    by_rule = refused == flood["with_retry_after"] == flood["sent"] - flood["room"] and not flood["broken"]
    statuses = ", ".join(f"{number} × {status}" for status, number in flood["statuses"].items())
    return [
        [f"/health with {flood['waiting']} waiting", health, f"p99 < {_ms(HEALTH_S)}", _said(good)],
        [f"/health while {flood['sent']} requests arrive", while_arriving, "", ""],
        [
            f"refused of {flood['sent']} where {flood['room']} have room", f"{statuses}, with Retry-After",
            "the rest, no other", _said(by_rule),
        ],
        ["all clients hang up: nobody is left after", f"{flood['gone_s']:.1f} s", "", ""],
    ]  # fmt: skip


def _faults(found: dict[str, Any]) -> str:
    """What was not answered with 200."""
    said = [
        f"{name}, round {place + 1}: statuses {row['statuses']}, broken {row['broken']}"
        for place, sample in enumerate(found["samples"])
        for name, record in sample.items()
        for row in (record["many"], record["one"])
        if row["broken"] or set(map(str, row["statuses"])) != {"200"}
    ]
    return "\n".join(f"- Not all answered: {line}" for line in said)


def _shown(value: float, unit: str) -> str:
    formats: dict[str, Callable[[float], str]] = {"ms": _ms, "t/s": lambda v: f"{v:.0f}"}
    return formats[unit](value)


def _ms(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:,.0f} ms" if abs(value) >= 100 else f"{value:.1f} ms"


def _said(good: bool) -> str:
    return "yes" if good else "**no**"


def _joined(table: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)
