"""`sampan serve [MODEL]`: the HTTP service."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sampan.catalog.catalog import DEFAULT, resolve
from sampan.catalog.naming import served_name
from sampan.cli import options as o
from sampan.cli.progress import TerminalProgress
from sampan.cli.terminal import say
from sampan.core.errors import UsageError, quoted
from sampan.core.memory import parse_bytes
from sampan.core.settings import Settings

_Host = Annotated[str, typer.Option(help="The address to listen on.")]
_Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
_KeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Keys that clients must show (see `sampan keys`).")
]
_MaxQueue = Annotated[int, typer.Option(min=1, help="Requests that may wait; more are refused.")]
_Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        "--served-name",
        help="The model's name for clients. MODEL unless given; of a path, the last part.",
    ),
]
_MaxSequences = Annotated[int, typer.Option(min=1, help="Requests that run side by side.")]
_Adapter = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=PATH", help="A LoRA adapter to load, a folder or a GGUF file. Repeatable."),
]
_MaxAdapters = Annotated[
    int | None, typer.Option(min=0, help="Adapters at once; their memory is set aside at the start.")
]
_AdapterRank = Annotated[int, typer.Option(min=1, help="The highest rank an adapter may have.")]
_WithoutKeys = Annotated[bool, typer.Option("--without-keys", help="Let everyone on the network in.")]
_Origins = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN", help="Web pages that may call: https://HOST, http://localhost:*, *. Repeatable."
    ),
]
_Hosts = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A name that clients may use for this service; * is any. Repeatable."),
]
_SharedCache = Annotated[
    bool,
    typer.Option(
        "--shared-cache", help="Keys share cached prefixes, and may tell by them what others asked."
    ),
]
_ControlTokens = Annotated[
    bool,
    typer.Option(
        "--control-tokens",
        help="Control tokens written in messages are control tokens; they are plain text unless given.",
    ),
]
_Database = Annotated[
    str | None, typer.Option(metavar="URL", help="Keys and usage; SQLite in SAMPAN_HOME unless given.")
]
_Price = Annotated[float | None, typer.Option(min=0, metavar="USD", help="What this machine costs.")]
_Stall = Annotated[
    float, typer.Option(min=1, help="A busy engine without progress for so long is restarted.")
]
_Write = Annotated[float, typer.Option(min=1, help="A client that takes nothing for so long is dropped.")]
_Header = Annotated[float, typer.Option(min=1, help="What a request's headers may take.")]
_Body = Annotated[float, typer.Option(min=1, help="What a request's body may take.")]
_LogFormat = Annotated[str, typer.Option(metavar="text|json", help="How log lines look.")]
_LogPrompts = Annotated[bool, typer.Option("--log-prompts", help="Write prompts and answers into the log.")]


def command(
    model: o.ModelName = DEFAULT,
    host: _Host = "127.0.0.1",
    port: _Port = 8000,
    api_key_file: _KeyFile = None,
    memory: o.Memory = None, expert_memory: o.ExpertMemory = None,
    max_queue: _MaxQueue = 4096,
    name: _Name = None,
    context: o.Context = None, threads: o.Threads = None, cache: o.CacheType = None,
    backend: o.Backend = "cpu", device: o.Device = None,
    draft: o.Draft = "auto", draft_model: o.DraftModel = None,
    draft_tokens: o.DraftTokens = None, draft_confidence: o.DraftConfidence = None,
    max_sequences: _MaxSequences = 64,
    adapter: _Adapter = None,
    max_adapters: _MaxAdapters = None,
    adapter_rank: _AdapterRank = 64,
    without_keys: _WithoutKeys = False,
    cors_origin: _Origins = None,
    allowed_host: _Hosts = None,
    shared_cache: _SharedCache = False,
    control_tokens: _ControlTokens = False,
    database: _Database = None,
    price_per_hour: _Price = None,
    stall_seconds: _Stall = 60.0, write_seconds: _Write = 60.0,
    header_seconds: _Header = 10.0, body_seconds: _Body = 60.0,
    log_format: _LogFormat = "text",
    log_prompts: _LogPrompts = False,
) -> None:  # fmt: skip
    """Serve a model behind the OpenAI and Anthropic interfaces, with a page to talk to it."""
    _check_numbers(stall_seconds, write_seconds, header_seconds, body_seconds, price_per_hour or 0.0)
    _check_words(log_format, cors_origin or (), allowed_host or ())
    from sampan.server.run import serve
    from sampan.server.settings import EngineSettings, ServeSettings

    settings = Settings.from_env()
    adapters = dict(map(_folder, adapter or []))
    most = max(max_adapters or 0, len(adapters))
    limit = None if memory is None else parse_bytes(memory)
    files = resolve(model, settings, TerminalProgress())
    small = None if draft_model is None else resolve(draft_model, settings, TerminalProgress())
    engine = EngineSettings(
        files, settings, limit, context, threads, max_sequences,
        cache,  # type: ignore[arg-type]  # checked with the budget
        most, adapter_rank, backend, device,
        draft,  # type: ignore[arg-type]  # checked with the budget
        small, draft_tokens, draft_confidence,
        expert_memory=None if expert_memory is None else parse_bytes(expert_memory),
    )  # fmt: skip
    service = ServeSettings(
        engine, name or served_name(model), host, port, max_queue, key_file=api_key_file, database=database,
        open_to_all=without_keys, cors_origins=tuple(cors_origin or ()), log_prompts=log_prompts,
        log_format=log_format, price_per_hour=price_per_hour, stall_s=stall_seconds, write_s=write_seconds,
        allowed_hosts=tuple(allowed_host or ()), shared_cache=shared_cache, header_s=header_seconds,
        body_s=body_seconds, adapters=adapters, control_tokens=control_tokens,
    )  # fmt: skip
    serve(service, lambda url: say(f"sampan: {service.model} is served at {url}"))


def _folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise UsageError(f"--adapter {text!r}: write NAME=PATH")
    return name, Path(folder)


def _check_numbers(*given: float) -> None:
    for number in given:
        if not math.isfinite(number):
            raise UsageError(f"{number} is no number of seconds or dollars: leave the option out for its own")


def _check_words(log_format: str, origins: Sequence[str], hosts: Sequence[str]) -> None:
    """Refuses what cannot match, before anything is loaded."""
    from sampan.server.names import check_given
    from sampan.server.origins import pattern

    if log_format not in ("text", "json"):
        raise UsageError(f"--log-format is {quoted(log_format)}: choose text or json")
    pattern(origins)
    check_given(hosts)
