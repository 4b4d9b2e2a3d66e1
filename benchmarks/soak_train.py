"""Hundreds of small steps of reinforcement learning: memory stays flat, and every gap is 0.

    python benchmarks/soak_train.py --steps 300

Prints one JSON object and fails where resident memory grew since the first tenth of the steps.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sampan.catalog.catalog import DEFAULT
from sampan.core.memory import resident_memory
from sampan.core.types import Completion
from sampan.envs.gym import GymTask
from sampan.envs.task import Problem
from sampan.train.full import Full
from sampan.train.grpo import Grpo
from sampan.train.recipe import Lora, Recipe
from sampan.train.run import run

MIB = 1 << 20
WARM_UP = 10  # steps


def spread(_problem: Problem, answer: Completion) -> float:
    """A reward that nearly always differs within a group."""
    return float(sum(answer.tokens) % 97)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--full", choices=["f32", "bf16"], help="the weights themselves, not an adapter")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--growth-mib", type=float, default=16, help="growth that is still noise")
    args = parser.parse_args()
    task = GymTask("chain_sum", min_terms=2, max_terms=2)
    grpo = Grpo(
        task=task, rewards={"spread": (1.0, spread)}, steps=args.steps, problems=2, samples=4, max_tokens=16,
        rate=1e-6,
    )  # fmt: skip
    weights = {"lora": None, "full": Full(dtype=args.full)} if args.full else {"lora": Lora()}
    recipe = Recipe(stages=(grpo,), model=args.model, rows=512, keep_every=50, **weights)
    sizes: list[int] = []
    gaps: list[float] = []

    def note(row: Mapping[str, Any]) -> None:
        if "number" in row:
            sizes.append(resident_memory())
            gaps.append(row["gap"])
            print(f"step {row['number'] + 1}: {sizes[-1] / MIB:.0f} MiB", file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        run(recipe, "soak", Path(folder) / "run", resume=False, threads=args.threads, tell=note)
    warm = max(sizes[: max(WARM_UP, args.steps // 10)])
    grown = (max(sizes[-WARM_UP:]) - warm) / MIB
    print(json.dumps({"steps": len(sizes), "warm_mib": warm / MIB, "grown_mib": grown, "gap": max(gaps)}))
    if grown > args.growth_mib or max(gaps):
        sys.exit(f"resident memory grew by {grown:.1f} MiB, or a gap is not 0: {max(gaps)}")


if __name__ == "__main__":
    main()
