"""Honest clients beside the attacks: each streams one short conversation after another.

    python benchmarks/hold_honest.py URL MODEL KEY CLIENTS

asks until its standard input closes, then prints a JSON object: the moment of every token (`tokens`), and of
every answer the moment it was asked for and the seconds to its first token (`first`), by the wall clock;
and what went wrong (`lost`).
"""

import asyncio
import json
import sys
import time
from itertools import count
from typing import Any
from urllib.parse import urlsplit

_TOKENS = 24
_PATIENCE_S = 120.0


class Honest:
    """All of them."""

    def __init__(self, url: str, model: str, key: str) -> None:
        place = urlsplit(url)
        self.host, self.port = place.hostname, place.port
        self.model, self.key = model, key
        self.found: dict[str, list[Any]] = {"tokens": [], "first": [], "lost": []}
        self.numbers = count()

    async def client(self) -> None:
        """One conversation after another."""
        while True:
            asked = time.time()
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await self.ask(asked)
            except (OSError, TimeoutError, ValueError) as error:
                self.found["lost"].append([asked, repr(error)])
                await asyncio.sleep(0.2)

    async def ask(self, asked: float) -> None:
        """One conversation; `ValueError` where its answer is not whole."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(self.request())
            seen, ended = 0, False
            while line := await reader.readline():
                if not line.startswith(b"data: "):
                    continue
                ended = line.startswith(b"data: [DONE]")
                if b'"content": "' in line and b'"role"' not in line:
                    now = time.time()
                    if not seen:
                        self.found["first"].append([asked, now - asked])
                    seen += 1
                    self.found["tokens"].append(now)
            if not ended:
                raise ValueError("the stream has no end")
        finally:
            writer.close()

    def request(self) -> bytes:
        said = f"{next(self.numbers)}: tell me about a river, a stone and a garden."
        body = json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": said}],
                "max_tokens": _TOKENS,
                "ignore_eos": True,
                "stream": True,
                "temperature": 1.0,
            }
        ).encode()
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body


async def run(honest: Honest, clients: int) -> None:
    tasks = [asyncio.create_task(honest.client()) for _ in range(clients)]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    url, model, key, clients = sys.argv[1:]
    honest = Honest(url, model, key)
    asyncio.run(run(honest, int(clients)))
    print(json.dumps(honest.found))


if __name__ == "__main__":
    main()
