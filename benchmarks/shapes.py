"""Published shapes beside llama.cpp: `python benchmarks/shapes.py --peer-python PYTHON [--shapes A,B]`.

Each shape of `random_models.py` is written once under build/bench; Sampan and llama.cpp read the same file
and are measured in turns in one run, the read bandwidth just before each. Prints a table and writes
benchmarks/results/shapes-TYPE.json: medians, ratios, and the share of the bandwidth that one sequence's
weights take (`token_bytes`: what its step must read of them, the head's included).
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from statistics import median
from typing import Any

from machine import describe
from random_models import BLOCK, SHAPES, TYPES, Shape, Writer
from run import BUILD, HERE, RESULTS
from sampan.core.settings import available_cores
from workers import Worker

ENGINES = ("sampan", "llama_cpp")
PROMPT, NEW = 64, 33


@dataclass(frozen=True)
class Measure:
    """One row of the table: a request to both workers."""

    label: str
    request: dict[str, Any]
    sequences: int = 0  # that decode; 0 for a prompt


def measures(shape: str) -> Iterator[Measure]:
    """What a shape is asked."""
    for sequences in (1, 32) if shape == "qwen3-moe-1b" else (1, 16):
        request = {"request": "decode", "sequences": sequences, "prompt": PROMPT, "new": NEW}
        yield Measure(f"decode {sequences}", request, sequences)
    if shape == "qwen3-moe-1b":
        yield Measure("prefill 512", {"request": "prefill", "prompt": 512})


def token_bytes(shape: Shape, block_bytes: int) -> float:
    """Of weights that one token's step reads: every matrix once, of the experts those chosen; the head."""
    chosen = int(shape.fields.get("expert_used_count", 0))
    layer = 0
    for name, size in shape.tensors.matrices.items():
        layer += prod((chosen, *size[1:]) if name.endswith("_exps") else size)
    return (shape.vocabulary * shape.hidden + shape.layers * layer) / BLOCK * block_bytes


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """All measures of a shape, by engine."""
    shape, path = SHAPES[name](), BUILD / f"{name}-{args.type}.gguf"
    if not path.exists():
        part = path.with_suffix(".part")
        Writer(shape, part, args.type).write()
        part.rename(path)
    workers = {}
    for engine in ENGINES:
        python = sys.executable if engine == "sampan" else args.peer_python
        command = [python, str(HERE / f"worker_{engine}.py"), str(path), str(args.threads), "4096", "32"]
        workers[engine] = Worker(engine, command, BUILD / f"{name}-{engine}.log")
    rows: dict[str, Any] = {}
    try:
        for turn in range(args.rounds):
            for each in measures(name):
                row = rows.setdefault(each.label, {engine: [] for engine in (*ENGINES, "read")})
                row["read"].append(workers["sampan"].ask({"request": "limits"})["read"])
                for engine in ENGINES if turn % 2 else reversed(ENGINES):
                    row[engine].append(workers[engine].ask(each.request | {"seed": turn})["value"])
    finally:
        for worker in workers.values():
            worker.close()
    return {"token_bytes": token_bytes(shape, TYPES[args.type][0]), "rows": rows}


def report(name: str, found: dict[str, Any]) -> None:
    """The table's lines of a shape."""
    for label, row in found["rows"].items():
        ours, peer = (median(row[engine]) for engine in ENGINES)
        ratio = median(a / b for a, b in zip(row["sampan"], row["llama_cpp"], strict=True))
        line = f"| {name} | {label} | {ours:.1f} | {peer:.1f} | {ratio:.2f} |"
        if label == "decode 1":
            share = median(
                s * found["token_bytes"] / r for s, r in zip(row["sampan"], row["read"], strict=True)
            )
            line += f" {share:.0%} of {median(row['read']) / 1e9:.1f} GB/s |"
        print(line, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--type", choices=TYPES, default="Q4_1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_cores())
    args = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": describe(), "type": args.type, "shapes": {}}
    print("| shape | measure | Sampan t/s | llama.cpp t/s | ratio | bandwidth |\n|---|---|---|---|---|---|")
    for name in args.shapes.split(","):
        found["shapes"][name] = measure(name, args)
        report(name, found["shapes"][name])
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"shapes-{args.type}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
