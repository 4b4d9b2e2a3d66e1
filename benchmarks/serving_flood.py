"""More requests than a service takes: is it still there, and whom does it send away?

`flood` puts them on from a process of its own (this file as a program: `serving_flood.py URL MODEL COUNT
ROOM`) and asks `/health` all the while, as a load balancer would: on a fresh connection, 25 times a second.
"""

import asyncio
import json
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from http.client import HTTPException
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from serving_servers import Server, get

_EVERY_S = 0.04
_PATIENCE_S = 120.0
_PROMPT = "Write a long story about a river, a stone and a winter market."


def flood(server: Server, sequences: int, queue: int, hold_s: float) -> dict[str, Any]:
    """`queue` requests wait, `sequences` run, some more are refused; after `hold_s` all hang up.

    `health_arriving_s`, `health_full_s`: spread of the seconds that `/health` took until every request was in
    its place, and from then on. `gone_s`: until nobody waited any more after they had hung up.
    """
    room = sequences + queue
    count = room + max(64, queue // 16)
    port = urlsplit(server.url).port or 80
    arriving, full = Watch(port), Watch(port)
    command = [sys.executable, __file__, server.url, server.model, str(count), str(room)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
        assert clients.stdin is not None
        assert clients.stdout is not None
        with arriving:
            seen = json.loads(clients.stdout.readline())
        waited = waiting(port)
        with full:
            time.sleep(hold_s)
        left = waiting(port)
        clients.stdin.close()
    gone = _until_empty(port)
    return seen | {
        "sent": count, "room": room, "waiting": waited, "waiting_after": left, "gone_s": gone,
        "health_arriving_s": arriving.spread(), "health_full_s": full.spread(),
        "health_asked": len(full.seconds), "health_failed": arriving.failed + full.failed,
    }  # fmt: skip


class Watch(threading.Thread):
    """Asks for `/health` while its block runs."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.seconds: list[float] = []
        self.failed = 0
        self._port = port
        self._over = threading.Event()

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(_EVERY_S):
            start = time.perf_counter()
            try:
                healthy = get(self._port, "/health")[0] == 200
            except (OSError, HTTPException):
                healthy = False
            self.seconds.append(time.perf_counter() - start)
            self.failed += not healthy

    def spread(self) -> dict[str, float]:
        """Median, 90th and 99th percentile, and the worst."""
        cuts = quantiles(self.seconds, n=100, method="inclusive")
        return {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98], "max": max(self.seconds)}


def waiting(port: int) -> int:
    """Requests in the queue, as the metrics tell."""
    return int(_gauges(port)["vllm:num_requests_waiting"])


def _gauges(port: int) -> dict[str, float]:
    lines = get(port, "/metrics")[1].decode().splitlines()
    return {line.partition("{")[0]: float(line.split()[-1]) for line in lines if line.startswith("vllm:num_")}


def _until_empty(port: int) -> float:
    start = time.perf_counter()
    while any(_gauges(port).values()):
        if time.perf_counter() - start > _PATIENCE_S:
            raise RuntimeError(f"requests of clients that are gone are still there: {_gauges(port)}")
        time.sleep(0.1)
    return time.perf_counter() - start


async def _clients(url: str, model: str, count: int, room: int) -> dict[str, Any]:
    """Ask; give what came of it as soon as all that have no room were refused."""
    place = urlsplit(url)
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": _PROMPT}],
            "max_tokens": 256,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
    request = head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body
    refused: list[tuple[int, bool]] = []
    enough, start = asyncio.Event(), time.perf_counter()

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(request)
        headers = await reader.readuntil(b"\r\n\r\n")
        status = int(headers.split()[1])
        if status != 200:
            refused.append((status, b"\r\nretry-after:" in headers.lower()))
            writer.close()
            if len(refused) == count - room:
                enough.set()
        else:
            while await reader.read(1 << 16):
                pass

    tasks = [asyncio.create_task(ask()) for _ in range(count)]
    with suppress(TimeoutError):
        await asyncio.wait_for(enough.wait(), _PATIENCE_S)
    return {
        "statuses": dict(Counter(status for status, _ in refused)),
        "with_retry_after": sum(told for _, told in refused),
        "broken": sum(task.done() and task.exception() is not None for task in tasks),
        "seconds": time.perf_counter() - start,
    }


async def _main(url: str, model: str, count: int, room: int) -> None:
    print(json.dumps(await _clients(url, model, count, room)), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
