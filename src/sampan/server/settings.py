"""How a service is set up. Read once, passed on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sampan.core.settings import Settings
from sampan.core.types import ModelFiles


@dataclass(frozen=True)
class EngineSettings:
    """What the worker loads; the fields are those of `sampan.LLM`, and `memory` and `expert_memory` are in
    bytes."""

    files: ModelFiles
    settings: Settings
    memory: int | None = None
    context: int | None = None
    threads: int | None = None
    max_sequences: int = 64
    cache: Literal["bf16", "int8", "f32", "auto"] | None = None
    adapters: int = 0
    adapter_rank: int = 64
    backend: str = "cpu"
    device: str | None = None
    draft: Literal["auto", "mtp", "lookup", "none"] = "auto"
    draft_model: ModelFiles | None = None
    draft_tokens: int | None = None
    draft_confidence: float | None = None
    expert_memory: int | None = None


@dataclass(frozen=True)
class ServeSettings:
    """`model`: the name clients use. `max_queue`: requests that may wait. `allowed_hosts`: names that clients
    may use besides those of this machine. `shared_cache`: keys find each other's prompts in the prefix cache.
    `price_per_hour`: what the machine costs, in US dollars. `control_tokens`: those that are written in
    messages are control tokens.

    Times are in seconds. `stall_s`: a busy engine without a step for so long is restarted. `write_s`: a
    client that takes nothing for so long is dropped. `header_s`, `body_s`: how long a request may take to
    arrive. `drain_s`: how long running answers have at the end. `change_s`: what loading an adapter or
    weights may take.
    """

    engine: EngineSettings
    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    max_queue: int = 1024
    max_body: int = 32 << 20
    key_file: Path | None = None
    database: str | None = None
    open_to_all: bool = False
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    shared_cache: bool = False
    control_tokens: bool = False
    log_prompts: bool = False
    log_format: str = "text"
    price_per_hour: float | None = None
    stall_s: float = 60.0
    write_s: float = 60.0
    header_s: float = 10.0
    body_s: float = 60.0
    drain_s: float = 60.0
    change_s: float = 600.0
    adapters: dict[str, Path] = field(default_factory=dict)
