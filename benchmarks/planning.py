"""Predicted against measured: `python benchmarks/planning.py MODEL… [--rounds N] [--json OUT]`.

The plan of `sampan models show` is computed from steps that take turns with the model's own: one token, then
one run of each program that the plan times; one prompt, then the same for prompts. What changes from minute
to minute on a shared machine so touches both sides. A round's figures are medians of its turns. MODELs are
files and folders here; `random_folder.py` and `random_experts.py` make some. Medians of the rounds are
printed, with the machine.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from machine import describe
from sampan.catalog.catalog import resolve
from sampan.cli import planning
from sampan.cli.bench import _prompts
from sampan.core.settings import Settings
from sampan.core.types import SamplingParams
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.cpu.machine import Machine
from sampan.kernels.cpu.pace import Pace
from sampan.llm import LLM
from sampan.llm.load import MAX_ROWS

PROMPT, DECODE, PROMPTS = 512, 64, 3
CONTEXT = PROMPT + DECODE // 2
Row = dict[str, Any]


def compare(model: str, rounds: int, settings: Settings) -> Row:
    """One model's figures."""
    planned = planning.of_files(resolve(model, settings))
    backend = CpuBackend(settings)
    found = planned.survey("as it is", backend)
    samples: list[Row] = []
    with LLM(model, context=1024, max_sequences=1, prefix_cache=False, speculation=False) as llm:
        prompt = _prompts(1, PROMPT, min(llm.config.vocab, 49152), 0)
        loaded = llm.plan
        page = loaded.cache_bytes // loaded.pages
        sizes = {
            "weights": (found.needs.weights, loaded.weights_bytes),
            "page": (found.needs.page[loaded.cache], page),
            "workspace": (found.needs.workspace + 128 * found.needs.logits, loaded.workspace_bytes),
        }
        chunk = min(llm.tuning.chunk_rows, MAX_ROWS)
        _measured(llm, prompt, [])
        for _ in range(rounds):
            paces = Paired(backend.machine), Paired(backend.machine)
            plans = {
                "decode_tps": lambda pace=paces[0]: 1 / found.work.decode_seconds(pace, CONTEXT),
                "prefill_tps": lambda pace=paces[1]: PROMPT / found.work.prefill_seconds(pace, PROMPT, chunk),
            }
            for ask in plans.values():
                ask()  # says what it wants to know
            measured = _measured(llm, prompt, paces)
            samples.append({name: (ask(), measured[name]) for name, ask in plans.items()})
    row: Row = {"model": model, "bytes": sizes, "samples": samples}
    for name in ("decode_tps", "prefill_tps"):
        pairs = [sample[name] for sample in samples]
        row[name] = {
            "predicted": median(pair[0] for pair in pairs),
            "measured": median(pair[1] for pair in pairs),
            "ratio": median(pair[0] / pair[1] for pair in pairs),
        }
    return row


class Paired(Pace):
    """A pace whose products are timed by turns with something else: `turn` runs each that was asked for."""

    def __init__(self, here: Machine) -> None:
        super().__init__(here)
        self._found: dict[tuple[int, int, bool], list[float]] = {}
        self.weight = self._known  # type: ignore[assignment]

    def _known(self, store: int, rows: int, fine: bool = False) -> float:
        return median(self._found.setdefault((store, rows, fine), []) or [1e-12])

    def turn(self) -> None:
        """One run of each."""
        for key, times in self._found.items():
            step, weights = self.step(*key)
            start = perf_counter()
            step()
            times.append((perf_counter() - start) / weights)


def _measured(llm: LLM, prompt: list[list[int]], paces: Sequence[Paired]) -> Row:
    """Medians of a few prompts and of the steps of one answer, with turns of the paces between them."""
    sampling = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    prompts = [_timed(llm, prompt[0], sampling, paces[1:])[0] for _ in range(PROMPTS)]
    _, steps = _timed(llm, prompt[0], replace(sampling, max_tokens=DECODE), paces[:1])
    return {"decode_tps": 1 / median(steps), "prefill_tps": PROMPT / median(prompts)}


def _timed(
    llm: LLM, prompt: list[int], sampling: SamplingParams, paces: Sequence[Paired]
) -> tuple[float, list[float]]:
    """Seconds to the first token, and of each step behind it."""
    llm.engine.add(prompt, sampling)
    first, steps, given = 0.0, [], 0
    while not llm.engine.idle:
        start = perf_counter()
        events = llm.engine.step()
        seconds = perf_counter() - start
        if given:
            steps.append(seconds)
        else:
            first += seconds
        given += len(events)
        for pace in paces:
            pace.turn()
    return first, steps


def _lines(row: Row) -> str:
    """Of the table."""
    sizes = ", ".join(f"{name} {p / 1e6:.1f} / {m / 1e6:.1f} MB" for name, (p, m) in row["bytes"].items())
    speeds = " | ".join(
        f"{row[name]['predicted']:.1f} | {row[name]['measured']:.1f} | {row[name]['ratio']:.2f}"
        for name in ("decode_tps", "prefill_tps")
    )
    return f"| {Path(row['model']).name} | {sizes} | {speeds} |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = Settings.from_env()
    print(json.dumps(describe()), flush=True)
    cells = [f"{of}, {name}" for of in ("decode", "prompt") for name in ("planned", "measured", "ratio")]
    print("|", " | ".join(["model", "bytes, planned / taken", *cells]), "|")
    rows = []
    for model in options.models:
        rows.append(compare(model, options.rounds, settings))
        print(_lines(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
