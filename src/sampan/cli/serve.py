"""`sampan serve [MODEL]`: the HTTP service."""

from pathlib import Path
from typing import Annotated

import typer

from sampan.catalog.catalog import DEFAULT, resolve
from sampan.cli import options as o
from sampan.cli.progress import TerminalProgress
from sampan.cli.terminal import say
from sampan.core.errors import UsageError
from sampan.core.memory import parse_bytes
from sampan.core.settings import Settings


def command(
    model: o.ModelName = DEFAULT,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keys that clients must show (see `sampan keys`).")
    ] = None,
    memory: o.Memory = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are refused.")] = 4096,
    name: Annotated[
        str | None, typer.Option(help="The model's name for clients; MODEL unless given.")
    ] = None,
    context: o.Context = None,
    threads: o.Threads = None,
    cache: o.CacheType = None,
    max_sequences: Annotated[int, typer.Option(min=1, help="Requests that run side by side.")] = 64,
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="A LoRA adapter to load. Repeatable.")
    ] = None,
    max_adapters: Annotated[
        int | None, typer.Option(min=0, help="Adapters at once; their memory is set aside at the start.")
    ] = None,
    adapter_rank: Annotated[int, typer.Option(min=1, help="The highest rank an adapter may have.")] = 64,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Let everyone on the network in.")
    ] = False,
    cors_origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Web pages that may call. Repeatable.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="Keys and usage; SQLite in SAMPAN_HOME unless given.")
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(min=0, metavar="USD", help="What this machine costs."),
    ] = None,
    stall_seconds: Annotated[
        float, typer.Option(min=1, help="A busy engine without progress for so long is restarted.")
    ] = 60.0,
    write_seconds: Annotated[
        float, typer.Option(min=1, help="A client that takes nothing for so long is dropped.")
    ] = 60.0,
    header_seconds: Annotated[float, typer.Option(min=1, help="What a request's headers may take.")] = 10.0,
    body_seconds: Annotated[float, typer.Option(min=1, help="What a request's body may take.")] = 60.0,
    log_format: Annotated[str, typer.Option(metavar="text|json", help="How log lines look.")] = "text",
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Write prompts and answers into the log.")
    ] = False,
) -> None:
    """Serve a model behind the OpenAI and Anthropic interfaces, with a page to talk to it."""
    if log_format not in ("text", "json"):
        raise UsageError(f"--log-format is {log_format!r}: choose text or json")
    from sampan.server.run import serve
    from sampan.server.settings import EngineSettings, ServeSettings

    settings = Settings.from_env()
    files = resolve(model, settings, TerminalProgress())
    limit = None if memory is None else parse_bytes(memory)
    adapters = dict(map(_adapter, adapter or []))
    engine = EngineSettings(
        files,
        settings,
        memory=limit,
        context=context,
        threads=threads,
        max_sequences=max_sequences,
        cache=cache,  # type: ignore[arg-type]  # checked with the budget
        adapters=max(max_adapters or 0, len(adapters)),
        adapter_rank=adapter_rank,
    )
    served = name or model
    serve(
        ServeSettings(
            engine,
            served,
            host,
            port,
            max_queue=max_queue,
            key_file=api_key_file,
            database=database,
            open_to_all=without_keys,
            cors_origins=tuple(cors_origin or ()),
            log_prompts=log_prompts,
            log_format=log_format,
            price_per_hour=price_per_hour,
            stall_s=stall_seconds,
            write_s=write_seconds,
            header_s=header_seconds,
            body_s=body_seconds,
            adapters=adapters,
        ),
        lambda url: say(f"sampan: {served} is served at {url}"),
    )


def _adapter(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise UsageError(f"--adapter {text!r}: write NAME=FOLDER")
    return name, Path(folder)
