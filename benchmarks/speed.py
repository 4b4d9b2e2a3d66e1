"""Decode and prefill of one sequence against llama.cpp, interleaved in one run on the same file.

    make bench

prints medians over the rounds and the ratio, and writes benchmarks/results/speed.json.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from sampan.catalog.catalog import resolve
from sampan.core.settings import Settings
from sampan.kernels.native import available_cores

HERE = Path(__file__).parent
KEYS = ("prefill_tps", "decode_tps")


def measure(command: list[str]) -> dict[str, float]:
    """The last JSON object a command prints."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stderr}")
    found: dict[str, float] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


def processor() -> str:
    """The processor's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {available_cores()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=available_cores())
    args = parser.parse_args()
    model = str(resolve("smollm2-135m", Settings.from_env()).path)
    sizes = [
        f"--{name}={getattr(args, name.replace('-', '_'))}"
        for name in ("prompt-tokens", "decode-tokens", "threads")
    ]
    commands = {
        "llama.cpp": [args.peer_python, str(HERE / "llama_cpp_worker.py"), model, *sizes],
        "sampan": [sys.executable, "-m", "sampan", "bench", model, "--batch", "1", "--json", *sizes],
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for index in range(args.rounds):
        for name, command in commands.items():
            runs[name].append(measure(command))
        print(f"round {index + 1} of {args.rounds}", file=sys.stderr)
    report(runs, args)


def report(runs: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    """A Markdown table on stdout, the figures of every round in a file."""
    medians = {n: {k: statistics.median(r[k] for r in rounds) for k in KEYS} for n, rounds in runs.items()}
    ratios = {
        k: statistics.median(
            ours[k] / peer[k] for ours, peer in zip(runs["sampan"], runs["llama.cpp"], strict=True)
        )
        for k in KEYS
    }
    print(f"{processor()}; {args.threads} threads; SmolLM2-135M Q4_1; median of {args.rounds} rounds\n")
    print("| tokens a second | llama.cpp | Sampan | ratio |\n|---|---|---|---|")
    labels = {"prefill_tps": f"prefill, {args.prompt_tokens} tokens", "decode_tps": "decode, 1 sequence"}
    for key in KEYS:
        print(
            f"| {labels[key]} | {medians['llama.cpp'][key]:.0f} | {medians['sampan'][key]:.0f} "
            f"| {ratios[key]:.2f} |"
        )
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    summary = {
        "machine": processor(),
        "arguments": vars(args),
        "medians": medians,
        "ratios": ratios,
        "runs": runs,
    }
    (results / "speed.json").write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
