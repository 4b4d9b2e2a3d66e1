"""A step of GRPO by Sampan and by TRL on the CPU, measured in turns in one run: `make bench-train`.

    python benchmarks/train_step.py --peer-python PYTHON [--rounds 3] [--steps 2] [--variants float32,…]

The same model (SmolLM2-135M, Q4_1; TRL reads the same numbers in bf16), the same prompts, 4 x 8 answers of up
to 64 tokens, adapters of rank 16 on all linears. Each trainer has a new process in every round and does one
step before it is measured; the next round begins with another. Writes benchmarks/results/train.json.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from bf16 import write_folder
from machine import describe
from sampan.catalog.catalog import resolve
from sampan.core.settings import Settings, available_cores
from workers import Worker, WorkerError

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "bench"
RESULTS = HERE / "results"
VARIANTS = ("defaults", "float32", "bfloat16")
PARTS = ("rollouts", "verification", "forward", "backward", "update")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", required=True, help="of the environment that has TRL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="measured in each round, after one that is not")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--variants", default=",".join(VARIANTS), help="of TRL's options")
    args = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(exist_ok=True)
    found: dict[str, Any] = {"machine": describe(), "threads": args.threads, "versions": {}, "rounds": []}
    commands = _commands(args)
    for place in range(args.rounds):
        names = [*commands][place % len(commands) :] + [*commands][: place % len(commands)]
        found["rounds"].append({name: _measured(name, commands[name], args.steps, found) for name in names})
        (RESULTS / "train.json").write_text(json.dumps(found, indent=1) + "\n")
    print(_table(found))


def _commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """How each trainer is started, by its name in the results."""
    files = resolve("smollm2-135m", Settings.from_env())
    folder = BUILD / "smollm2-135m-bf16"
    if not folder.exists():
        write_folder(files.path, folder)
    threads = str(args.threads)
    ours = [sys.executable, str(HERE / "worker_train_sampan.py"), str(files.path), threads]
    peer = [args.peer_python, str(HERE / "worker_train_trl.py"), str(folder), threads]
    return {"sampan": ours} | {f"trl {name}": [*peer, name] for name in args.variants.split(",")}


def _measured(name: str, command: list[str], steps: int, found: dict[str, Any]) -> dict[str, Any]:
    """What a new process of a trainer gives."""
    worker = None
    try:
        worker = Worker(name, command, BUILD / f"train-{name.replace(' ', '-')}.log")
        found["versions"][name] = worker.ready["version"]
        values = worker.ask({"request": "steps", "count": steps})
    except WorkerError as error:
        raise SystemExit(str(error)) from error
    finally:
        if worker is not None:
            worker.close()
    seconds = ", ".join(f"{step['seconds']:.1f} s" for step in values["steps"])
    print(f"{name}: {seconds}; {values['peak'] / 1e9:.1f} GB; gap {values['gap']:.2g}", flush=True)
    return values


def _table(found: dict[str, Any]) -> str:
    """Medians over all steps of all rounds, as Markdown."""
    rows = ["| trainer | a step | tokens an answer | peak memory | largest difference of log-probabilities |"]
    rows.append("|---|---:|---:|---:|---:|")
    names = sorted({name for each in found["rounds"] for name in each}, key=lambda name: name != "sampan")
    for name in names:
        every = [each[name] for each in found["rounds"]]
        steps = [step for values in every for step in values["steps"]]
        rows.append(
            f"| {name} | {median(step['seconds'] for step in steps):.1f} s "
            f"| {median(step['length'] for step in steps):.0f} "
            f"| {max(values['peak'] for values in every) / 1e9:.2f} GB "
            f"| {max(values['gap'] for values in every):.2g} |"
        )
    ours = [step for each in found["rounds"] for step in each["sampan"]["steps"]]
    whole = sum(step["seconds"] for step in ours)
    shares = (f"{part} {sum(step['parts'][part] for step in ours) / whole:.1%}" for part in PARTS)
    return "\n".join([*rows, "", f"Sampan's time: {', '.join(shares)}."])


if __name__ == "__main__":
    main()
