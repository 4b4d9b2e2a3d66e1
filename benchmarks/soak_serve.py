"""Thousands of mixed requests to a running service with a small cache, a tenth of them left by their clients.

    .venv/bin/python benchmarks/soak_serve.py --requests 10000

starts `sampan serve` with the default model, asks it in every way (conversations, completions, grammars,
Anthropic's messages; streamed and whole), and hangs up at random moments: in the headers, in the body, while
the request waits, in the midst of the answer. It prints a JSON object and ends with exit code 1 if a request
was lost, the memory of either process grew after the warm-up, a page of the cache stayed in use, or the
service failed or forgot something by its own metrics.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from serving_servers import Server, free_port, get, started
from serving_traffic import Question, Traffic

MIB = 1 << 20
SETTINGS = ("--context", "512", "--memory", "150MiB", "--max-sequences", "24")  # 32 pages for 24 sequences
CLIENTS = 48
WARM_UP = 300  # requests: a tenth of all if that is more, half of them if they are few
PATIENCE_S = 120.0  # for one answer
SETTLE_S = 30.0  # until nothing is left in the service


@dataclass
class Soak:
    """Random traffic. `lost`: what came of requests that should have been answered, a few of them."""

    server: Server
    chance: random.Random
    requests: int
    answered: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Requests that have ended in one way or another."""
        return self.answered.total() + self.left.total() + len(self.lost)

    async def run(self) -> None:
        """All of it, with a progress bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        questions = Traffic(self.server.model, self.chance).questions(self.requests)
        clients = asyncio.gather(*(self.client(questions) for _ in range(CLIENTS)))
        warm = max(self.requests // 10, min(WARM_UP, self.requests // 2))
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("requests", total=self.requests)
            while not clients.done():
                await asyncio.wait([clients], timeout=0.5)
                if self.done >= warm + len(self.memory) * max(1, (self.requests - warm) // 10):
                    self.memory.append(await asyncio.to_thread(resident, self.server))
                progress.update(task, completed=self.done, description=f"{len(self.lost)} lost")
        await clients

    async def client(self, questions: Iterator[Question]) -> None:
        """Ask one after another, with pauses now and then."""
        for question in questions:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self.ask(question)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                self.lost.append(f"{question.kind}: {error!r}")
            if self.chance.random() < 0.2:
                await asyncio.sleep(self.chance.expovariate(4))

    async def ask(self, question: Question) -> None:
        place = urlsplit(self.server.url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            if question.leave is not None:
                await self.leave(question, reader, writer)
                self.left[question.leave] += 1
                return
            writer.write(question.head + question.content)
            answer = await reader.read()
            if b" 200 " in answer[:16] and question.is_whole(answer.partition(b"\r\n\r\n")[2]):
                self.answered[question.kind] += 1
            else:
                self.lost.append(f"{question.kind}: {answer[:16]!r} … {answer[-200:]!r}")
        finally:
            writer.close()

    async def leave(
        self, question: Question, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Hang up in a phase, at a moment of it."""
        head, body = question.head, question.content
        if question.leave == "headers":
            writer.write(head[: self.chance.randrange(1, len(head) - 1)])
        elif question.leave == "body":
            writer.write(head + body[: self.chance.randrange(len(body))])
        else:
            writer.write(head + body)
        await writer.drain()
        if question.leave == "answer":
            await reader.read(1)  # a streamed answer has begun, a whole one has ended
        await asyncio.sleep(self.chance.choice((0, self.chance.expovariate(20))))


def metrics(server: Server) -> dict[str, float]:
    """Every number that the service gives, by its name and the values of its own labels."""
    text = get(urlsplit(server.url).port or 80, "/metrics")[1].decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join([s.name, *_own(s.labels)]): s.value for s in samples}


def _own(labels: dict[str, str]) -> list[str]:
    return [value for name, value in labels.items() if name not in ("model_name", "engine")]


def resident(server: Server) -> dict[str, float]:
    """Bytes of both processes."""
    now = metrics(server)
    return {who: now[f"sampan:resident_memory_bytes {who}"] for who in ("api", "engine")}


def settled(server: Server) -> dict[str, float]:
    """The metrics once nothing runs or waits and no page is used, or after a while in any case."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        time.sleep(0.6)  # the engine tells its pages four times a second
        now = metrics(server)
        idle = not any(now[name] for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"))
        if (idle and not now["vllm:kv_cache_usage_perc"]) or time.monotonic() > deadline:
            return now


def report(soak: Soak, now: dict[str, float], seconds: float) -> dict[str, Any]:
    """What came of it."""
    failures = {name: n for name, n in now.items() if name.startswith("sampan:errors_total ") and n}
    return {
        "requests": soak.requests,
        "answered": dict(sorted(soak.answered.items())),
        "left": dict(sorted(soak.left.items())),
        "lost": soak.lost[:20],
        "seconds": round(seconds, 1),
        "tokens": now["vllm:generation_tokens_total"],
        "aborted": now["sampan:requests_aborted_total"],
        "preempted": now["vllm:num_preemptions_total"],
        "prefix_hits": now["vllm:prefix_cache_hits_total"],
        "errors": failures,
        "restarts": now["sampan:engine_restarts_total"],
        "running": now["vllm:num_requests_running"],
        "waiting": now["vllm:num_requests_waiting"],
        "cache_used": now["vllm:kv_cache_usage_perc"],
        "memory_mib": {who: [round(m[who] / MIB, 1) for m in soak.memory] for who in ("api", "engine")},
    }


def faults(found: dict[str, Any], lost: int, growth_mib: float) -> list[str]:
    """What must not be."""
    grown = {who: sizes[-1] - sizes[0] for who, sizes in found["memory_mib"].items()}
    wrong = {f"the {who} process grew by {grown[who]:.1f} MiB": grown[who] > growth_mib for who in grown}
    wrong |= {
        f"{lost} requests were lost": bool(lost),
        "not every request was accounted for": _total(found) + lost != found["requests"],
        "pages of the cache are still in use": bool(found["cache_used"]),
        "requests are still in the service": bool(found["running"] or found["waiting"]),
        "the engine was restarted": bool(found["restarts"]),
        f"the service counted errors: {found['errors']}": any(
            'status="5' in name for name in found["errors"]
        ),
    }
    return [what for what, is_so in wrong.items() if is_so]


def _total(found: dict[str, Any]) -> int:
    return sum(found["answered"].values()) + sum(found["left"].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--growth-mib", type=float, default=12, help="growth that is still noise")
    args = parser.parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="sampan-soak-") as folder:
        database = f"sqlite:///{folder}/ledger.db"
        command = [sys.executable, "-m", "sampan", "serve", "--port", str(port), "--database", database]
        with started("Sampan", [*command, *SETTINGS], port, Path(folder)) as server:
            soak = Soak(server, random.Random(args.seed), args.requests)
            start = time.perf_counter()
            asyncio.run(soak.run())
            seconds = time.perf_counter() - start
            now = settled(server)
            soak.memory.append(resident(server))
    found = report(soak, now, seconds)
    print(json.dumps(found))
    wrong = faults(found, len(soak.lost), args.growth_mib)
    for fault in wrong:
        print(fault, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
