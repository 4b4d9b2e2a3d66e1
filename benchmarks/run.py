"""Sampan beside its peers, measured in turns in one run: `make bench`.

    python benchmarks/run.py --peer-python PYTHON [--rounds 5] [--scenarios a,b] [--models q4_1] [--quick]

Each engine lives in its own process, loaded once and stopped while another one is measured. Every scenario is
measured with all engines one after another, beginning with another one each time, and with the machine's
limits just before. After each round benchmarks/results/bench.json and bench.md and docs/images/bench.svg are
written, so an interrupted run (Ctrl-C) leaves what it has, and `--resume` goes on with it.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import plot
import report
from bf16 import write_folder
from machine import describe
from sampan.catalog.catalog import resolve
from sampan.core.settings import Settings, available_cores
from scenarios import CACHE_TOKENS, FRESH_TOKENS, SCENARIOS, Request, Scenario, Series
from workers import Worker, WorkerError

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "bench"
RESULTS = HERE / "results"
PICTURE = HERE.parent / "docs" / "images" / "bench.svg"
MODELS = ("q4_1", "bf16")


class Bench:
    """The processes of one model and the samples that they gave so far."""

    def __init__(self, args: argparse.Namespace, model: str, found: dict[str, Any]) -> None:
        self.args, self.model, self.found = args, model, found
        self.samples: dict[str, list[dict[str, Any]]] = found["models"][model]["scenarios"]
        self.files = model_files(model, args)
        self.workers: dict[str, Worker] = {}
        self.warm: set[str] = set()

    def start(self, engine: str, cache_tokens: int, sequences: int) -> Worker:
        """A new process of an engine."""
        python = {"sampan": sys.executable, "vllm": self.args.vllm_python}.get(engine, self.args.peer_python)
        script = HERE / f"worker_{engine}.py"
        sizes = [str(self.args.threads), str(cache_tokens), str(sequences)]
        command = [python, str(script), str(self.files[engine]), *sizes]
        return Worker(engine, command, BUILD / f"{self.model}-{engine}.log")

    def open(self) -> None:
        """Load every engine that this model's scenarios need."""
        for engine in self.files:
            try:
                self.workers[engine] = self.start(engine, CACHE_TOKENS, 64)
                self.found["versions"][engine] = self.workers[engine].ready["version"]
            except WorkerError as error:
                self.fail(str(error))
        if "sampan" not in self.workers:
            raise SystemExit("Sampan itself did not start: nothing to compare")
        ours = self.workers["sampan"]
        self.found["models"][self.model] |= {
            "work": ours.ask({"request": "work"}),
            "tuning": ours.ready["tuning"],
        }

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers.values():
            worker.close()

    def fail(self, message: str) -> None:
        """Say it, and keep it for the report."""
        print(f"{self.model}: {message}", file=sys.stderr)
        self.found["failures"].append(f"{self.model}: {message}")

    def series(self, scenario: Scenario, round_: int) -> list[str]:
        """Who takes part in this round."""
        request = scenario.request["request"]
        able = {engine for engine, worker in self.workers.items() if worker.can(request)}
        return [
            name
            for name, series in scenario.series.items()
            if series.engine in able and (series.rounds is None or round_ < series.rounds)
        ]

    def measure(self, name: str, round_: int) -> None:
        """A scenario's samples of one round, those that an earlier run left excepted."""
        scenario = SCENARIOS[name]
        names = self.series(scenario, round_)
        done = sum(sample["round"] == round_ for sample in self.samples.setdefault(name, []))
        for turn in range(done, scenario.times if names else 0):
            self.warm_up(name, names)
            seed = zlib.crc32(f"{self.model} {name} {round_} {turn}".encode())
            first = (round_ + turn) % len(names)
            limits = self.workers["sampan"].ask({"request": "limits"})
            sample: dict[str, Any] = {"round": round_, "limits": limits, "values": {}}
            for each in names[first:] + names[:first]:
                try:
                    sample["values"][each] = self.ask(scenario, scenario.series[each], seed)
                except WorkerError as error:
                    self.fail(f"{name}: {error}")
            self.samples[name].append(sample)
            print(f"{self.model} round {round_ + 1}: {report.line(scenario, sample)}", file=sys.stderr)

    def ask(self, scenario: Scenario, series: Series, seed: int) -> dict[str, Any]:
        """One value."""
        request = dict(scenario.request) | dict(series.fields)
        if request["request"] not in ("edit", "kernel"):
            request["seed"] = seed
        if not scenario.fresh:
            return self.workers[series.engine].ask(request)
        worker = self.start(series.engine, FRESH_TOKENS, 1)
        try:
            values = worker.ask(request)
            return values if "value" in values else values | {"value": worker.age}
        finally:
            worker.close()

    def warm_up(self, name: str, names: list[str]) -> None:
        """Once for each scenario: the same work with a few new tokens."""
        scenario = SCENARIOS[name]
        if scenario.fresh or name in self.warm:
            return
        self.warm.add(name)
        request: Request = dict(scenario.request) | ({"new": 4} if "new" in scenario.request else {})
        for each in names:
            shorter = Scenario(scenario.label, scenario.unit, request, scenario.series)
            try:
                self.ask(shorter, scenario.series[each], zlib.crc32(name.encode()))
            except WorkerError as error:
                self.fail(f"{name}: {error}")


def model_files(model: str, args: argparse.Namespace) -> dict[str, Path]:
    """What each engine reads, made where it is not there yet."""
    source = resolve("smollm2-135m", Settings.from_env()).path
    if model == "q4_1":
        return {"sampan": source, "llama_cpp": source, "openvino": source}
    files = {"sampan": BUILD / "bf16", "llama_cpp": BUILD / "bf16.gguf", "openvino": BUILD / "f16.gguf"}
    if not files["sampan"].exists():
        write_folder(source, files["sampan"])
    for path in (files["llama_cpp"], files["openvino"]):
        if not path.exists():
            command = [args.peer_python, str(HERE / "bf16.py"), str(source), str(path), path.stem]
            subprocess.run(command, check=True)
    return files | ({"vllm": files["sampan"]} if args.vllm_python else {})


def write(out: Path, found: dict[str, Any]) -> None:
    """Everything there is, as JSON, as tables and as a picture."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    summary = report.summary(found)
    (out / "bench.md").write_text(report.markdown(found, summary))
    picture = PICTURE if out == RESULTS else out / "bench.svg"
    picture.write_text(plot.picture(found, summary))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer-python", required=True, help="a Python with llama-cpp-python, openvino-genai, gguf"
    )
    parser.add_argument(
        "--vllm-python", help="a Python with vLLM for CPUs: measured too, on the bf16 checkpoint"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="some of: %(default)s")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder; %(default)s")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--quick", action="store_true", help="one round of the Q4_1 file")
    parser.add_argument("--resume", action="store_true", help="go on with what bench.json has")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.models = 1, "q4_1"
    for given, known in ((args.scenarios, SCENARIOS), (args.models, MODELS)):
        if unknown := set(given.split(",")) - set(known):
            parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    return args


def results(args: argparse.Namespace) -> dict[str, Any]:
    """An empty record of this run, or the one to go on with."""
    here = {"machine": describe(), "threads": args.threads}
    path = args.out / "bench.json"
    if args.resume and path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        if {key: found[key] for key in here} != here:
            raise SystemExit(f"{path} is of another machine or thread count: run without --resume")
        return found | {"rounds": args.rounds}
    stamp = time.strftime("%Y-%m-%d %H:%M %Z")
    return {"date": stamp, "rounds": args.rounds, "versions": {}, "failures": [], "models": {}} | here


def run(args: argparse.Namespace, found: dict[str, Any], model: str) -> None:
    """All rounds of one model."""
    found["models"].setdefault(model, {"scenarios": {}})
    bench = Bench(args, model, found)
    wanted = [n for n in SCENARIOS if n in args.scenarios.split(",") and model in SCENARIOS[n].models]
    try:
        bench.open()
        for round_ in range(args.rounds):
            for name in wanted:
                bench.measure(name, round_)
            write(args.out, found)
    finally:
        bench.close()


def main() -> None:
    args = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    BUILD.mkdir(parents=True, exist_ok=True)
    found = results(args)
    started = time.monotonic()
    try:
        for model in args.models.split(","):
            run(args, found, model)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        found["seconds"] = round(time.monotonic() - started)
        if found["models"]:
            write(args.out, found)
    print((args.out / "bench.md").read_text())


if __name__ == "__main__":
    main()
