"""Sampan's service beside other servers, in turns in one run: `make bench-serve`.

    python benchmarks/serving.py --peer-python PYTHON [--llama-server FILE] [--rounds 3] [--quick]

In every round each server is started anew, warmed up, put under the same load (the same conversations,
streamed, answers of equal length) and ended, beginning with another one each time. Sampan's turn has two more
parts: its engine alone, in a process of its own, gets the same prompts just before the service does; and
requests one at a time go by turns to the engine and to the service, whose difference is what the service adds
to the first token. At the end of the run 4,096 requests wait while `/health` is asked. After each round
benchmarks/results/serve.json and serve.md and docs/images/serve.svg are written; Ctrl-C leaves what there is.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import serving_report
from machine import describe
from sampan.catalog.catalog import resolve
from sampan.cli.load import Load, measure
from sampan.core.settings import Settings, available_cores
from scenarios import LLAMA_CPP, OPENVINO, SAMPAN
from serving_flood import flood
from serving_servers import Server, Setup, running
from workers import Worker

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PICTURE = HERE.parent / "docs" / "images" / "serve.svg"
ORDER = (LLAMA_CPP, OPENVINO, SAMPAN)
SLACK = 64  # tokens of a sequence beside the prompt that was asked for and the answer

Row = dict[str, Any]


class Run:
    """The settings of a run and how it loads a server."""

    def __init__(self, args: argparse.Namespace, setup: Setup) -> None:
        self.args = args
        self.setup = setup

    def turn(self, name: str, round_: int) -> Row:
        """One server, from its start to its end."""
        engine = self.engine() if name == SAMPAN else None
        try:
            alone = {} if engine is None else {"engine": self.batch(engine, round_)}
            with running(name, self.setup) as server:
                self.load(server, 4, 4, 8, seed=1_000_000 + round_)
                found = {
                    "load_s": server.load_s,
                    "many": self.load(server, self.args.clients, self.requests, seed=round_),
                    "one": self.load(server, 1, self.args.singles, seed=100_000 + round_),
                }
                if engine is not None:
                    found["pairs"] = self.pairs(engine, server, round_)
            return found | alone
        finally:
            if engine is not None:
                engine.close()

    @property
    def requests(self) -> int:
        """Of the many clients together."""
        return int(self.args.clients * self.args.per_client)

    def load(self, server: Server, clients: int, requests: int, new: int | None = None, *, seed: int) -> Row:
        """What the clients see."""
        more = {"ignore_eos": True}
        load = Load(
            server.url, clients, requests, self.args.prompt_tokens, new or self.args.decode_tokens,
            model=server.model, seed=seed, more=more,
        )  # fmt: skip
        return measure(load)

    def engine(self) -> Worker:
        """Sampan's engine alone, warmed up and stopped."""
        sizes = [str(self.setup.threads), str(self.setup.sequences)]
        command = [sys.executable, str(HERE / "serving_engine.py"), str(self.setup.model), *sizes]
        worker = Worker("engine", command, self.setup.folder / "serve-engine.log")
        worker.ask(self.asked("closed", 8, seed=1_000_000, clients=4, requests=4))
        return worker

    def batch(self, engine: Worker, round_: int) -> Row:
        """The load of the many clients, without a service."""
        fields = {"clients": self.args.clients, "requests": self.requests}
        return engine.ask(self.asked("closed", self.args.decode_tokens, seed=round_, **fields))

    def asked(self, request: str, new: int, *, seed: int, **fields: int) -> Row:
        """A request to the engine's worker."""
        return {"request": request, "prompt": self.args.prompt_tokens, "new": new, "seed": seed, **fields}

    def pairs(self, engine: Worker, server: Server, round_: int) -> list[list[float]]:
        """Seconds to the first token of the same prompt: by the service, and by the engine alone."""
        found = []
        for turn in range(self.args.pairs):
            seed = 10_000 * (round_ + 1) + turn
            served = alone = 0.0
            for who in ("service", "engine") if turn % 2 else ("engine", "service"):
                if who == "engine":
                    alone = engine.ask(self.asked("first", 4, seed=seed))["ttft_s"]
                else:
                    served = self.load(server, 1, 1, 4, seed=seed)["ttft_s"]["p50"]
            found.append([served, alone])
        return found


def overload(setup: Setup, queue: int, hold_s: float) -> Row:
    """A service with a full queue."""
    with running(SAMPAN, replace(setup, queue=queue)) as server:
        return flood(server, setup.sequences, queue, hold_s)


def write(args: argparse.Namespace, found: Row) -> None:
    """Everything there is, as JSON, as tables and as a picture."""
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "serve.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "serve.md").write_text(serving_report.markdown(found))
    picture = PICTURE if args.out == RESULTS and not args.quick else args.out / "serve.svg"
    picture.write_text(serving_report.picture(found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", required=True, help="a Python with the peers and uvicorn")
    parser.add_argument("--llama-server", help="llama.cpp's own server; python -m llama_cpp.server without")
    parser.add_argument("--servers", default=",".join(ORDER), help="some of: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--per-client", type=int, default=2, help="requests of each of the many clients")
    parser.add_argument("--singles", type=int, default=8, help="requests of the one client")
    parser.add_argument(
        "--pairs", type=int, default=30, help="requests to the service and the engine by turns"
    )
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--decode-tokens", type=int, default=128)
    parser.add_argument(
        "--queue", type=int, default=4096, help="requests that wait in the last part; 0: none"
    )
    parser.add_argument("--hold", type=float, default=15.0, help="seconds for which they do")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder; %(default)s")
    parser.add_argument(
        "--quick", action="store_true", help="one round of a small load, to see that it works"
    )
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.clients, args.per_client, args.singles, args.pairs = 1, 8, 1, 2, 4
        args.decode_tokens, args.queue, args.hold = 32, min(args.queue, 256), 3.0
    if unknown := set(args.servers.split(",")) - set(ORDER):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(ORDER)}")
    return args


def versions(args: argparse.Namespace) -> dict[str, str]:
    """Of all three."""
    code = "import importlib.metadata as m; print(m.version('llama_cpp_python'), m.version('openvino_genai'))"
    peers = subprocess.run([args.peer_python, "-c", code], capture_output=True, text=True, check=True)
    llama, openvino = peers.stdout.split()
    own = "llama-server of" if args.llama_server else "python -m llama_cpp.server of"
    return {
        LLAMA_CPP: f"{own} llama-cpp-python {llama}",
        OPENVINO: f"OpenVINO GenAI {openvino} behind a front of ours",
        SAMPAN: f"Sampan {version('sampan')}",
    }


def run(args: argparse.Namespace, found: Row, folder: Path) -> None:
    """All rounds, and the full queue."""
    model = resolve("smollm2-135m", Settings.from_env()).path
    room = args.prompt_tokens + args.decode_tokens + SLACK
    setup = Setup(
        model, args.peer_python, args.llama_server, args.threads, args.clients, room, 4 * args.clients, folder
    )
    bench = Run(args, setup)
    order = [name for name in ORDER if name in args.servers.split(",")]
    for round_ in range(args.rounds):
        first = round_ % len(order)
        sample: Row = {}
        found["samples"].append(sample)
        for name in order[first:] + order[:first]:
            sample[name] = bench.turn(name, round_)
            said = f"{sample[name]['many']['tokens_per_s']:.0f} tokens/s"
            print(f"round {round_ + 1}: {name} {said}", file=sys.stderr)
        write(args, found)
    if args.queue:
        found["flood"] = overload(setup, args.queue, args.hold)


def main() -> None:
    args = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kept = (
        "clients",
        "per_client",
        "singles",
        "pairs",
        "prompt_tokens",
        "decode_tokens",
        "rounds",
        "threads",
    )
    found: Row = {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "machine": describe(),
        "versions": versions(args),
        "load": {name: getattr(args, name) for name in kept},
        "samples": [],
    }
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="sampan-serve-") as folder:
            run(args, found, Path(folder))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        found["seconds"] = round(time.monotonic() - started)
        write(args, found)
    print((args.out / "serve.md").read_text())


if __name__ == "__main__":
    main()
