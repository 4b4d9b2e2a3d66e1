"""Clients that would stop a service for the others: each kind is played by a process of its own.

    python benchmarks/hold_attacks.py KIND URL MODEL KEY SECONDS

asks for so long and prints a JSON object: how often it tried, what came of it by status, and what must not be
(`faults`). Only loopback addresses are asked, few connections at a time, and never beyond its time.
"""

import asyncio
import ipaddress
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

MIB = 1 << 20
_PATIENCE_S = 60.0
_LAST_S = 5.0  # for what was asked last


class Attack:
    """One kind, against one service, for some seconds. `answered`: by status, or by how else it ended."""

    def __init__(self, url: str, model: str, key: str, seconds: float) -> None:
        place = urlsplit(url)
        assert place.hostname is not None
        assert ipaddress.ip_address(place.hostname).is_loopback
        self.host, self.port = place.hostname, place.port or 80
        self.model, self.key = model, key
        self.seconds = seconds
        self.deadline: float | None = None
        self.chance = random.Random(0)
        self.tried = 0
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    async def ask(self, path: str, body: Any, **options: Any) -> tuple[int, bytes]:
        """A JSON request as it should be; its status, 0 for none, and its answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send(self.head(path, len(content), **options), content)

    def head(self, path: str, length: int, key: str | None = None, host: str = "localhost") -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key or self.key}\r\n"
            f"content-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        ).encode()

    async def send(
        self, *parts: bytes, leave_s: float | None = None, half: bool = False
    ) -> tuple[int, bytes]:
        """Send these bytes and read to the end, or hang up after so long. `half`: close our own direction."""
        self.tried += 1
        status, answer = 0, b""
        writer = None
        try:
            async with asyncio.timeout(leave_s or _PATIENCE_S):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                with suppress(OSError):  # it may be refused before all is sent
                    for part in parts:
                        writer.write(part)
                        await writer.drain()
                    if half:
                        writer.write_eof()
                answer = await reader.read()
                while answer.startswith(b"HTTP/1.1 1"):  # an interim answer
                    _, _, answer = answer.partition(b"\r\n\r\n")
                status = int(answer[9:12]) if answer.startswith(b"HTTP/") else 0
                self.answered[str(status or "closed")] += 1
        except TimeoutError:
            self.answered["left" if leave_s else "never"] += 1
            if not leave_s:
                self.faults["a request was never answered"] += 1
        except OSError:
            self.answered["closed"] += 1
        finally:
            if writer is not None:
                writer.close()
        if status >= 500 and status != 503:
            self.faults[f"status {status}: {answer[-200:]!r}"] += 1
        return status, answer

    async def repeat(self, what: Callable[[], Awaitable[Any]], clients: int = 1, pause_s: float = 0) -> None:
        """`what`, by so many clients at once, until the time is over."""

        if self.deadline is None:  # what had to be prepared is no part of it
            self.deadline = time.monotonic() + self.seconds
        end = self.deadline

        async def one() -> None:
            while time.monotonic() < end:
                await what()
                await asyncio.sleep(pause_s)

        played = [asyncio.create_task(one()) for _ in range(clients)]
        _, waiting = await asyncio.wait(played, timeout=end + _LAST_S - time.monotonic())
        if waiting:
            self.answered["left at the end"] += len(waiting)
        for client in waiting:
            client.cancel()
        for client in played:
            with suppress(asyncio.CancelledError):
                await client


async def hang_up(a: Attack) -> None:
    """128 answers are asked for at once, and nobody stays to hear them."""
    body = json.dumps({"model": a.model, "prompt": "a", "n": 128, "max_tokens": 400}).encode()
    await a.repeat(lambda: a.send(a.head("/v1/completions", len(body)), body, leave_s=2))


async def hang_up_together(a: Attack) -> None:
    """64 clients leave in the same moment; others leave at random ones."""
    body = json.dumps({"model": a.model, "prompt": "a", "max_tokens": 400, "stream": True}).encode()

    async def together() -> None:
        moment = a.chance.choice((0.005, 0.05, 0.3, a.chance.random()))
        head = a.head("/v1/completions", len(body))
        await asyncio.gather(*(a.send(head, body, leave_s=moment) for _ in range(64)))

    await a.repeat(together, pause_s=0.2)


async def long_texts(a: Attack) -> None:
    """Texts and lists that no context holds, on every endpoint that reads them."""
    text = "a " * (7 * MIB)
    said = [{"role": "user", "content": text}]
    asks: list[tuple[str, Any]] = [
        ("/v1/completions", {"model": a.model, "prompt": "a " * (15 * MIB)}),
        ("/v1/completions", {"model": a.model, "prompt": text}),
        ("/v1/completions", {"model": a.model, "prompt": "a " * 200_000}),
        ("/tokenize", {"prompt": text}),
        ("/v1/chat/completions", {"model": a.model, "messages": said}),
        ("/v1/messages", {"model": a.model, "messages": said, "max_tokens": 1}),
        ("/v1/responses", {"model": a.model, "input": text}),
        ("/detokenize", {"tokens": [1] * 15_000_000}),
        ("/detokenize", {"tokens": [1] * 3_000_000}),
        ("/v1/completions", {"model": a.model, "prompt": "a", "stop": ["a" * 900_000] * 16}),
        ("/v1/completions", {"model": a.model, "prompt": [[]] * 2_000_000}),
        ("/v1/chat/completions", {"model": a.model, "messages": [{"role": "user", "content": ""}] * 100_000}),
        ("/v1/chat/completions", b"[" * (8 * MIB)),
        ("/page/render", {"text": "*a **b " * 14_000}),
    ]
    ready = [(path, body if isinstance(body, bytes) else json.dumps(body).encode()) for path, body in asks]

    async def one() -> None:
        path, body = a.chance.choice(ready)
        status, answer = await a.ask(path, body)
        if status == 200 and path != "/page/render":
            a.faults[f"{path} took it: {answer[-80:]!r}"] += 1

    await a.repeat(one, clients=2)


async def without_a_key(a: Attack) -> None:
    """Large bodies and headers of somebody who has no key."""
    body = b'{"prompt": "' + b"a " * (7 * MIB) + b'"}'

    async def unknown() -> None:
        status, _ = await a.ask("/v1/completions", body, key="sk-not-a-key")
        if status not in (401, 0):
            a.faults[f"status {status} without a key"] += 1

    async def headers() -> None:
        line = b"x-long: " + b"a" * 1000 + b"\r\n"
        await a.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\n", *([line * 100] * 200))

    await asyncio.gather(a.repeat(unknown, clients=8), a.repeat(headers, clients=2, pause_s=0.05))


async def slow_connections(a: Attack) -> None:
    """Connections that bring or take nothing, close their own direction, or send no request at all."""
    whole = json.dumps({"model": a.model, "prompt": "a", "max_tokens": 2}).encode()
    head = a.head("/v1/completions", len(whole))

    async def half_closed() -> None:
        status, _ = await a.send(head, whole, half=True)
        if status not in (200, 429, 503):
            a.faults[f"status {status} for a half-closed client"] += 1

    async def idle() -> None:
        await a.send(head, whole[:10], leave_s=3)

    async def noise() -> None:
        await a.send(a.chance.randbytes(2000))

    await asyncio.gather(
        a.repeat(half_closed, pause_s=0.5), a.repeat(idle, clients=100), a.repeat(noise, pause_s=0.2)
    )


async def grammars(a: Attack) -> None:
    """Thirty large schemas at once, each another one, and grammars beyond every limit."""
    number = 0

    def schema(fields: int) -> dict[str, Any]:
        nonlocal number
        number += 1
        names = {f"n{number}_{place}": {"type": "string", "maxLength": 40} for place in range(fields)}
        return {"type": "object", "properties": names, "additionalProperties": False}

    async def large() -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema(3000)}}
        said = [{"role": "user", "content": "Hi"}]
        body = {"model": a.model, "messages": said, "response_format": form, "max_tokens": 4}
        await a.ask("/v1/chat/completions", body)

    async def beyond() -> None:
        grammar = a.chance.choice(
            (
                {"type": "choice", "value": [f"{n} " + "word " * 5 for n in range(10_000)]},
                {"type": "regex", "value": "((a{0,100}){0,100}){0,100}"},
                {"type": "regex", "value": "(x+x+)+y" * 50},
                {"type": "lark", "value": 'start: ("a" | "b"){1,100000}'},
            )
        )
        await a.ask("/v1/completions", {"model": a.model, "prompt": "a", "max_tokens": 4, "grammar": grammar})

    await asyncio.gather(a.repeat(large, clients=30), a.repeat(beyond))


async def changes(a: Attack) -> None:
    """Paths that lead nowhere, by somebody who may change the model."""
    paths = ["/" + "a" * 300, "a" * 4000, "/root/none/x", "/etc/passwd", "/dev/zero", "/proc/self/mem", "/"]

    async def one() -> None:
        path = a.chance.choice(paths)
        if a.chance.random() < 0.5:
            status, answer = await a.ask("/v1/update_weights", {"path": path})
        else:
            status, answer = await a.ask("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": path})
        if status != 400:
            a.faults[f"status {status} for {path[:20]}: {answer[-80:]!r}"] += 1

    await a.repeat(one, clients=2, pause_s=0.02)


async def other_names(a: Attack) -> None:
    """A web page whose name leads here."""

    async def one() -> None:
        status, _ = await a.ask("/v1/models", {}, host=a.chance.choice(("evil.example", "a:b:c", "x/y")))
        if status not in (400, 421):
            a.faults[f"status {status} for a name of somebody else's"] += 1

    await a.repeat(one, clients=2, pause_s=0.01)


KINDS = {
    each.__name__.replace("_", "-"): each
    for each in (
        hang_up, hang_up_together, long_texts, without_a_key, slow_connections, grammars, changes, other_names
    )
}  # fmt: skip


def main() -> None:
    kind, url, model, key, seconds = sys.argv[1:]
    os.nice(19)  # what is measured is what the service does, not what the attacker takes of this machine
    attack = Attack(url, model, key, float(seconds))
    asyncio.run(KINDS[kind](attack))
    print(
        json.dumps({"tried": attack.tried, "answered": dict(attack.answered), "faults": dict(attack.faults)})
    )


if __name__ == "__main__":
    main()
