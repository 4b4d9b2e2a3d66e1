"""What the service and its engine process tell each other, and how it is framed.

Both ends are this program, joined by a socket pair that nobody else can open: so frames are pickles, each
after its length in four bytes.
"""

import asyncio
import pickle
import socket
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sampan.core.types import Grammar, Pooling, SamplingParams, Scoring
from sampan.engine.sequence import Event
from sampan.kernels.experts import ExpertReads
from sampan.server.settings import EngineSettings

COMPILERS = 2
"""Grammars that the engine's process compiles at once."""

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Submit:
    """Answer a prompt; `id` is the service's name for it both ways. `grammar`: the id it was compiled by.
    `thinking`: the prompt has opened a block of reasoning. `continues`: the answer goes on with its text.
    `salt`: only requests with the same share cached prefixes. `scoring`, `pooling`: what becomes of the
    prompt's own tokens."""

    id: int
    ids: "array[int]"
    sampling: SamplingParams
    grammar: int | None = None
    thinking: bool = False
    adapter: str | None = None
    salt: bytes = b""
    scoring: Scoring | None = None
    pooling: Pooling | None = None
    continues: bool = False


@dataclass(frozen=True)
class Abort:
    """Forget a request before the next step."""

    id: int


@dataclass(frozen=True)
class Compile:
    """Make a grammar ready. `thinking`: prompts have opened a block of reasoning, behind which it begins.
    `at_once`: only if that takes no time."""

    id: int
    grammar: Grammar
    thinking: bool = False
    at_once: bool = False


@dataclass(frozen=True)
class Compiled:
    """What came of it. `error`: why it is not ready; `busy` where it may be later, `refused` where never."""

    id: int
    kind: Literal["ready", "slow", "busy", "refused"]
    error: str = ""


@dataclass(frozen=True)
class Forget:
    """Nobody needs a compiled grammar any more."""

    id: int


@dataclass(frozen=True)
class Change:
    """Load or unload an adapter, or give the model new weights from `path`."""

    id: int
    kind: Literal["load", "unload", "update"]
    name: str = ""
    path: Path = Path()


@dataclass(frozen=True)
class Changed:
    """What came of it. `error`: why nothing did."""

    id: int
    weights_version: int
    error: str | None = None


@dataclass(frozen=True)
class Start:
    """The first frame: what to load, and what was changed since. `forgiving`: a change that cannot be made
    (its files are gone) is told, and is no reason not to start."""

    settings: EngineSettings
    changes: tuple[Change, ...] = ()
    forgiving: bool = False


@dataclass(frozen=True)
class Ready:
    """The model is loaded. Bytes as planned; `pages` of `page_tokens` tokens in the cache. `lost`: changes
    that could not be made again, and why."""

    context: int
    max_sequences: int
    pages: int
    page_tokens: int
    weights_bytes: int
    cache_bytes: int
    workspace_bytes: int
    threads: int
    load_seconds: float
    weights_version: int = 0
    lost: tuple[tuple[Change, str], ...] = ()


@dataclass(frozen=True)
class Failed:
    """The model cannot be loaded."""

    message: str


@dataclass(frozen=True)
class Refused:
    """A request that was not served. `kind`: it cannot be as asked, its prompt is too long, or the engine
    failed."""

    id: int
    message: str
    kind: Literal["request", "overflow", "failure"]


@dataclass(frozen=True)
class Step:
    """What a step of the engine, or several, gave. An event's `request` is the service's name."""

    events: tuple[Event, ...]


@dataclass(frozen=True)
class Beat:
    """A sign of life. `steps` since the start; `busy`: there is work, so steps must grow. `depths`: as the
    engine's counters have them."""

    steps: int
    busy: bool
    running: int
    waiting: int
    pages_used: int
    looked_up: int
    found: int
    drafted: int
    accepted: int
    depths: dict[str, list[tuple[int, int]]]
    preempted: int
    resident_bytes: int
    experts: ExpertReads | None = None


def pack(message: object) -> bytes:
    """A message as a frame."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def receive(connection: socket.socket) -> Any:
    """The next message; None when the other end is gone."""
    header = _exactly(connection, _LENGTH.size)
    body = None if header is None else _exactly(connection, _LENGTH.unpack(header)[0])
    return None if body is None else pickle.loads(body)


async def areceive(reader: asyncio.StreamReader) -> Any:
    """The same for asyncio."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        try:
            part = connection.recv(count - len(data))
        except ConnectionError:
            return None
        if not part:
            return None
        data += part
    return bytes(data)
