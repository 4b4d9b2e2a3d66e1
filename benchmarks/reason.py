"""The training demonstration: recipes from their beginning to their end, for several seeds, and what came of
them.

    python benchmarks/reason.py [--recipes chain_sum,cold_start] [--seeds 0,1,2] [--out DIR]

A run that is in DIR goes on where it was, and one that is done is only read. Behind each run the perplexity
of 20,000 tokens of licence texts and source code (corpus.py) is taken without its adapter and with it. Needs
the `train` extra.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, hypot
from pathlib import Path
from typing import Any

from corpus import windows
from machine import describe
from sampan.llm.model import LLM

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Result:
    """A test of a run before its first stage and behind its last, with standard errors."""

    recipe: str
    seed: int
    test: str
    before: float
    before_error: float
    after: float
    after_error: float
    minutes: float
    gap: float

    @property
    def rise(self) -> tuple[float, float]:
        """With its standard error, the two being told apart as if the problems were others."""
        return self.after - self.before, hypot(self.before_error, self.after_error)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", default="chain_sum")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "reason")
    asked = parser.parse_args()
    results, harm = [], {}
    for name in asked.recipes.split(","):
        for seed in map(int, asked.seeds.split(",")):
            folder = asked.out / f"{name}-{seed}"
            _train(ROOT / "recipes" / f"{name}.py", seed, folder)
            results += list(_results(name, seed, folder))
            harm[folder.name] = _perplexities(folder)
    print(_table(results))
    print(_told(harm))
    told = {"machine": describe(), "results": [vars(result) for result in results], "perplexity": harm}
    (asked.out / "results.json").write_text(json.dumps(told, indent=2) + "\n")


def _train(recipe: Path, seed: int, folder: Path) -> None:
    if (folder / "adapter" / "adapter_config.json").exists():
        return
    command = [sys.executable, "-m", "sampan", "train", "pipeline", str(recipe), "--out", str(folder)]
    command += ["--seed", str(seed), *(["--resume"] if folder.exists() else [])]
    subprocess.run(command, check=True)


def _results(recipe: str, seed: int, folder: Path) -> Iterator[Result]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    tests: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if "test" in row:
            tests[row["test"]].append(row)
    minutes = sum(sum(row["seconds"].values()) for row in rows if "seconds" in row) / 60
    gap = max((row["gap"] for row in rows if "gap" in row), default=0.0)
    for name, found in tests.items():
        first, last = found[0], found[-1]
        values = first["accuracy"], first["error"], last["accuracy"], last["error"]
        yield Result(recipe, seed, name, *values, minutes, gap)


def _perplexities(folder: Path) -> list[float]:
    """Of the model that was trained, without the run's adapter and with it."""
    kept = folder / "perplexity.json"
    if not kept.exists():
        model = json.loads((folder / "run.json").read_text())["model"]
        with LLM(model, adapters=1, context=1024) as llm:
            llm.load_adapter("run", folder / "adapter")
            ids = list(windows(llm.encode, 1024, 20000))
            scored = [llm.score(ids), llm.score(ids, adapter="run")]
        rows = sum(len(window) - 1 for window in ids)
        kept.write_text(json.dumps([exp(sum(each.nll for each in scores) / rows) for scores in scored]))
    values: list[float] = json.loads(kept.read_text())
    return values


def _told(harm: dict[str, list[float]]) -> str:
    lines = ["| run | perplexity before | after | |", "|---|---|---|---|"]
    for name, (before, after) in harm.items():
        lines.append(f"| {name} | {before:.2f} | {after:.2f} | {after / before - 1:+.1%} |")
    return "\n".join(lines)


def _table(results: list[Result]) -> str:
    lines = [
        "| recipe | seed | test | before | after | rise | minutes | largest trainer - sampler |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        rise, error = one.rise
        cells = (
            one.recipe,
            str(one.seed),
            one.test,
            f"{one.before:.1%} ± {one.before_error:.1%}",
            f"{one.after:.1%} ± {one.after_error:.1%}",
            f"{100 * rise:+.1f} ± {100 * error:.1f}",
            f"{one.minutes:.0f}",
            f"{one.gap}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
