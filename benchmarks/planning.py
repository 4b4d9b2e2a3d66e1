"""Predicted against measured: `python benchmarks/planning.py MODEL… [--rounds N] [--json OUT]`.

Each round measures a model, asks the plan of `sampan models show` for a prediction from fresh measurements of
the machine, and measures the model again; a round's figure is the mean of both, so that what changes from
minute to minute touches both sides. MODELs are files and folders here; `random_folder.py` and
`random_experts.py` make some. Medians of the rounds are printed, with the machine.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, median
from typing import Any

from machine import describe
from sampan.catalog.catalog import resolve
from sampan.cli import planning
from sampan.cli.bench import _measure, _prompts
from sampan.core.settings import Settings
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.cpu.pace import Pace
from sampan.llm import LLM
from sampan.llm.load import MAX_ROWS

PROMPT, DECODE = 512, 64
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
        _measured(llm, prompt)
        for _ in range(rounds):
            before = _measured(llm, prompt)
            pace = Pace(backend.machine)
            predicted = {
                "decode_tps": 1 / found.work.decode_seconds(pace, CONTEXT),
                "prefill_tps": PROMPT / found.work.prefill_seconds(pace, PROMPT, chunk),
            }
            after = _measured(llm, prompt)
            samples.append(
                {name: (value, mean((before[name], after[name]))) for name, value in predicted.items()}
            )
    row: Row = {"model": model, "bytes": sizes, "samples": samples}
    for name in ("decode_tps", "prefill_tps"):
        pairs = [sample[name] for sample in samples]
        row[name] = {
            "predicted": median(pair[0] for pair in pairs),
            "measured": median(pair[1] for pair in pairs),
            "ratio": median(pair[0] / pair[1] for pair in pairs),
        }
    return row


def _measured(llm: LLM, prompt: list[list[int]]) -> Row:
    return _measure(llm.engine, prompt, DECODE, lambda _tokens: None)


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
