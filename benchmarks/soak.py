"""Thousands of random requests, many of them aborted, through one engine with a small cache.

    .venv/bin/python benchmarks/soak.py --requests 20000

runs the default model and prints a JSON object. It ends with exit code 1 if memory grew after the warm-up,
a page of the cache was lost, a request was forgotten or the engine came to a standstill.
"""

import argparse
import json
import random
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from sampan.core.types import SamplingParams
from sampan.engine.engine import Engine
from sampan.llm import LLM

MIB = 1 << 20
CONTEXT, PAGES, SEQUENCES = 320, 24, 32  # a cache for about half of the sequences
CROWD = 48  # requests at once, waiting ones included
WARM_UP = 100  # requests: a tenth of all if that is more, half of them if they are few
PATIENCE = 500  # steps without a token


@dataclass
class Soak:
    """Random traffic on an engine. `live`: a request's tokens so far; `leaving`: the step of its abortion."""

    engine: Engine
    chance: random.Random
    requests: int
    tokens: int = 0
    aborted: int = 0
    finished: int = 0
    steps: int = 0
    prefixes: list[list[int]] = field(default_factory=list)
    live: dict[int, int] = field(default_factory=dict)
    leaving: dict[int, int] = field(default_factory=dict)

    def run(self) -> Iterator[int]:
        """Serve all requests; gives the number of those that have ended, step by step."""
        self.prefixes = [self.ids(length) for length in (20, 32, 40, 64, 70, 100)]
        crowd = quiet = started = 0
        while started < self.requests or self.live:
            if self.steps % 40 == 0:  # the largest comes first, within the warm-up
                crowd = self.chance.choice((1, 4, 16, SEQUENCES, CROWD)) if self.steps else CROWD
            while len(self.live) < crowd and started < self.requests:
                self.start()
                started += 1
            given = self.step()
            quiet = 0 if given else quiet + 1
            if quiet > PATIENCE:
                raise SystemExit(f"no token in {PATIENCE} steps with {len(self.live)} requests to serve")
            yield self.finished + self.aborted

    def step(self) -> int:
        """One step of the engine, and the abortions that are due. Returns the tokens given."""
        events = self.engine.step()
        self.steps += 1
        for event in events:
            if event.error is not None:
                raise SystemExit(f"request {event.request} failed: {event.error}")
            self.live[event.request] += 1
            if event.finish_reason is not None:
                self.finished += 1
                self.forget(event.request)
        for request in [request for request, step in self.leaving.items() if step <= self.steps]:
            if not self.engine.abort(request):
                raise SystemExit(f"request {request} was not known when it was aborted")
            self.aborted += 1
            self.forget(request)
        self.tokens += len(events)
        return len(events)

    def start(self) -> None:
        prompt = self.ids(1 + int(self.chance.expovariate(1 / 12)))
        if self.chance.random() < 0.5:
            prefix = self.chance.choice(self.prefixes)
            prompt = prefix[: self.chance.randint(1, 2 * len(prefix))] + prompt
        request = self.engine.add(prompt[: CONTEXT - 1], self.sampling())
        self.live[request] = 0
        if self.chance.random() < 0.15:
            self.leaving[request] = self.steps + 1 + int(self.chance.expovariate(1 / 8))

    def forget(self, request: int) -> None:
        del self.live[request]
        self.leaving.pop(request, None)

    def ids(self, count: int) -> list[int]:
        return [self.chance.randrange(self.engine.vocabulary) for _ in range(count)]

    def sampling(self) -> SamplingParams:
        c = self.chance
        kinds: tuple[dict[str, Any], ...] = (
            {"temperature": 0},
            {"temperature": 0, "logprobs": c.randint(0, 20)},
            {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
            {"temperature": 1.0, "top_p": 0.9},
            {"temperature": 1.0, "seed": c.randrange(2**63)},
            {"temperature": 0.6, "repetition_penalty": 1.1, "frequency_penalty": 0.2, "top_k": 20},
            {"temperature": 0, "logit_bias": {self.ids(1)[0]: 5.0}, "stop_token_ids": self.ids(3)},
        )
        most = None if c.random() < 0.005 else 1 + int(c.expovariate(1 / 9))
        return SamplingParams(max_tokens=most, ignore_eos=c.random() < 0.5, **c.choice(kinds))


def whole(engine: Engine) -> bool:
    """Every page can be had again, each once."""
    pages = array("i")
    had = engine.pool.extend(pages, engine.pool.count * engine.pool.size)
    missing = engine.pool.count - len(set(pages))
    engine.pool.release(pages)
    return had and missing == 0 and engine.pool.free == engine.pool.count


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--growth-mib", type=float, default=8, help="growth that is still noise")
    args = parser.parse_args()
    with LLM(threads=args.threads, context=CONTEXT, max_sequences=SEQUENCES, cache_tokens=PAGES * 32) as llm:
        soak = Soak(llm.engine, random.Random(args.seed), args.requests)
        started = time.perf_counter()
        warm = serve(soak)
        end = resident()
        report = {
            "requests": args.requests,
            "finished": soak.finished,
            "aborted": soak.aborted,
            "tokens": soak.tokens,
            "steps": soak.steps,
            "seconds": round(time.perf_counter() - started, 1),
            **asdict(llm.engine.counters),
            "warm_rss_bytes": warm,
            "end_rss_bytes": end,
            "pages": llm.engine.pool.count,
            "pages_free": llm.engine.pool.free,
        }
        print(json.dumps(report))
        faults = {
            f"resident memory grew by {(end - warm) / MIB:.1f} MiB": end - warm > args.growth_mib * MIB,
            "a page of the cache was lost": not whole(llm.engine),
            "a request was forgotten": soak.finished + soak.aborted != args.requests or not llm.engine.idle,
        }
    for fault in (fault for fault, found in faults.items() if found):
        print(fault, file=sys.stderr)
    sys.exit(any(faults.values()))


def serve(soak: Soak) -> int:
    """All of it, with a progress bar. Returns the resident bytes after the warm-up."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    warm, enough = 0, max(soak.requests // 10, min(WARM_UP, soak.requests // 2))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("requests", total=soak.requests)
        for ended in soak.run():
            if warm == 0 and ended >= enough:
                warm = resident()
            text = f"{resident() / MIB:.0f} MiB, {soak.engine.counters.preempted} gave way"
            progress.update(task, completed=ended, description=text)
    return warm


if __name__ == "__main__":
    main()
