"""Load on an OpenAI-compatible service: clients that stream answers side by side, and what they see.

A client sends its next request when its last answer has ended. Times are those of a client: from the
request's first byte to an event's arrival. The parsing is light, because it takes the server's processors.
"""

import asyncio
import json
import random
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sampan.core.errors import RequestError, UsageError

_WORDS = ("river", "stone", "paper", "light", "market", "winter", "engine", "garden", "letter", "number")
_PERCENTILES = (50, 90, 99)
_HEALTH_EVERY_S = 0.1
_USAGE = re.compile(rb'"completion_tokens": ?([0-9]+)')
_TEXT = re.compile(rb'"content": ?"[^"]')  # some text: neither "" nor null


@dataclass(frozen=True)
class Load:
    """`clients` at once, `requests` in all, of about `prompt_tokens`, each answered with `decode_tokens` at
    most. `same`: words that all prompts begin with. `more`: fields of every request that not every server
    knows."""

    url: str
    clients: int
    requests: int
    prompt_tokens: int
    decode_tokens: int
    key: str | None = None
    model: str | None = None
    same: int = 0
    seed: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Seen:
    """What the clients saw. Seconds."""

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    tokens: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    broken: int = 0


def measure(load: Load) -> dict[str, Any]:
    """Put the load on and return the row of figures."""
    try:
        import uvloop

        return uvloop.run(_measure(load))
    except ImportError:
        return asyncio.run(_measure(load))


async def _measure(load: Load) -> dict[str, Any]:
    place = urlsplit(load.url)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise UsageError(f"--serve {load.url!r}: give an address such as http://127.0.0.1:8000")
    model = load.model or await _first_model(place, load.key)
    bodies = iter([json.dumps(request).encode() for request in requests(load, model)])
    seen = Seen()
    watch = asyncio.create_task(_watch_health(place, load.key, seen))
    start = time.perf_counter()
    try:
        await asyncio.gather(*(_client(place, load.key, bodies, seen) for _ in range(load.clients)))
    finally:
        watch.cancel()
    seconds = time.perf_counter() - start
    return {
        "url": load.url, "model": model, "clients": load.clients, "requests": load.requests,
        "prompt_tokens": load.prompt_tokens, "decode_tokens": load.decode_tokens, "seconds": seconds,
        "tokens": seen.tokens, "tokens_per_s": seen.tokens / seconds, "statuses": seen.statuses,
        "broken": seen.broken, "ttft_s": _spread(seen.first), "gap_s": _spread(seen.gaps),
        "request_s": _spread(seen.whole), "health_s": _spread(seen.health),
    }  # fmt: skip


def requests(load: Load, model: str) -> list[dict[str, Any]]:
    """What the clients send: the same for the same seed."""
    source = random.Random(load.seed)
    return [_request(load, model, source) for _ in range(load.requests)]


def _request(load: Load, model: str, source: random.Random) -> dict[str, Any]:
    words = " ".join(source.choices(_WORDS, k=max(1, load.prompt_tokens - load.same - 30)))
    shared = " ".join(_WORDS[i % len(_WORDS)] for i in range(load.same))
    return {
        "model": model,
        "messages": [{"role": "user", "content": f"{shared} Write a long story about: {words}"}],
        "max_tokens": load.decode_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **load.more,
    }


async def _client(place: SplitResult, key: str | None, bodies: Any, seen: Seen) -> None:
    for body in bodies:
        try:
            await _ask(place, key, body, seen)
        except (OSError, asyncio.IncompleteReadError):
            seen.broken += 1


async def _ask(place: SplitResult, key: str | None, body: bytes, seen: Seen) -> None:
    start = last = time.perf_counter()
    reader, writer = await _send(place, key, "POST", "/v1/chat/completions", body)
    try:
        status = await _status(reader)
        seen.statuses[status] = seen.statuses.get(status, 0) + 1
        if status != 200:
            return
        tokens = events = 0
        rest = b""
        while data := await reader.read(1 << 16):
            now = time.perf_counter()
            events_in, _, rest = (rest + data).rpartition(b"\n\n")
            for _ in _TEXT.findall(events_in):
                (seen.gaps if events else seen.first).append(now - (last if events else start))
                last, events = now, events + 1
            if found := _USAGE.search(events_in):
                tokens = int(found[1])
            if b"[DONE]" in events_in:
                break
        seen.tokens += tokens or events
        seen.whole.append(time.perf_counter() - start)
    finally:
        writer.close()


async def _watch_health(place: SplitResult, key: str | None, seen: Seen) -> None:
    while True:
        start = time.perf_counter()
        try:
            reader, writer = await _send(place, key, "GET", "/health", b"")
            status = await _status(reader)
            writer.close()
        except OSError:
            status = 0
        if status == 200:
            seen.health.append(time.perf_counter() - start)
        await asyncio.sleep(_HEALTH_EVERY_S)


async def _first_model(place: SplitResult, key: str | None) -> str:
    try:
        reader, writer = await _send(place, key, "GET", "/v1/models", b"")
        status = await _status(reader)
        text = await reader.read()
        writer.close()
    except OSError as error:
        raise RequestError(f"{place.geturl()} does not answer: {error.strerror or error}") from error
    start, end = text.find(b"{"), text.rfind(b"}")
    if status != 200 or start < 0:
        raise RequestError(f"{place.geturl()}/v1/models answered with status {status}")
    return str(json.loads(text[start : end + 1])["data"][0]["id"])


async def _send(
    place: SplitResult, key: str | None, method: str, path: str, body: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    secure = ssl.create_default_context() if place.scheme == "https" else None
    port = place.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(place.hostname, port, ssl=secure)
    key_line = f"authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: {place.netloc}\r\nconnection: close\r\n{key_line}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    return reader, writer


async def _status(reader: asyncio.StreamReader) -> int:
    """The status of an answer, whose headers are read over."""
    line = await reader.readline()
    if not line:
        raise ConnectionResetError("the server hung up")
    while (await reader.readline()).strip():
        pass
    return int(line.split()[1])


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
    return {f"p{percent}": cuts[percent - 1] for percent in _PERCENTILES}


def show(load: Load, as_json: bool) -> None:
    """Measure and print."""
    row = measure(load)
    print(json.dumps(row) if as_json else _table(row))


def _table(row: dict[str, Any]) -> str:
    """The figures for people."""
    names = {
        "ttft_s": "first token",
        "gap_s": "between tokens",
        "request_s": "request",
        "health_s": "/health",
    }
    lines = [
        f"{row['tokens_per_s']:.1f} tokens/s from {row['clients']} clients; {row['requests']} requests in "
        f"{row['seconds']:.1f} s, by status {row['statuses']}, broken {row['broken']}",
        f"{'milliseconds':>16}" + "".join(f"{f'p{percent}':>10}" for percent in _PERCENTILES),
    ]
    for name, label in names.items():
        cells = row[name] or {}
        lines.append(f"{label:>16}" + "".join(f"{1000 * value:10.1f}" for value in cells.values()))
    return "\n".join(lines)
