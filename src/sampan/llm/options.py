"""The options of `LLM`, checked before anything is read: a wrong one is a `UsageError` that names it."""

import os
from pathlib import Path

from sampan.catalog.progress import Progress
from sampan.core.errors import ModelNotFound, UsageError, quoted
from sampan.core.memory import parse_bytes
from sampan.core.settings import Settings, checked_threads, whole_number
from sampan.core.types import ModelFiles
from sampan.engine.budget import Wish

_MOST_SEQUENCES = 2**16
_MOST_TOKENS = 2**32


def model_of(model: object) -> str | ModelFiles:
    """A name or path as the catalogue takes it, or the files themselves."""
    if isinstance(model, ModelFiles):
        return model
    text = os.fspath(model) if isinstance(model, str | os.PathLike) else None
    if isinstance(text, str):
        try:
            Path(text).expanduser()
        except RuntimeError:  # ~NAME of somebody unknown
            raise ModelNotFound(f"{quoted(text)}: there is no such home folder") from None
        return text
    raise UsageError(f"model is {quoted(model)}: give an alias, a path, hf:ORG/NAME or pypi:PACKAGE==VERSION")


def wish_of(
    memory: int | str | None,
    context: int | None,
    max_sequences: int,
    cache: str | None,
    cache_tokens: int | None,
    adapters: int,
    adapter_rank: int,
    expert_memory: int | str | None = None,
) -> Wish:
    """What is asked of memory."""
    if cache is not None and not isinstance(cache, str):
        raise UsageError(f"cache is {quoted(cache)}: give 'bf16', 'int8', 'f32' or 'auto'")
    return Wish(
        memory=None if memory is None else parse_bytes(memory),
        context=_tokens("context", context),
        max_sequences=whole_number("max_sequences", max_sequences, 1, _MOST_SEQUENCES),
        cache_tokens=_tokens("cache_tokens", cache_tokens),
        cache=cache,
        adapters=whole_number("adapters", adapters, 0, 4096),
        adapter_rank=whole_number("adapter_rank", adapter_rank, 1, 4096),
        expert_memory=None if expert_memory is None else parse_bytes(expert_memory),
    )


def _tokens(name: str, value: int | None) -> int | None:
    return None if value is None else whole_number(name, value, 1, _MOST_TOKENS)


def check_dtype(dtype: object, expert_memory: object) -> None:
    """Of the weights in memory; experts on disk stay as the file has them."""
    if dtype is not None and dtype not in ("f32", "bf16"):
        raise UsageError(f"dtype is {quoted(dtype)}: give 'f32' or 'bf16', or nothing for the file's own")
    if dtype is not None and expert_memory is not None:
        raise UsageError("dtype and expert_memory: experts on disk stay as the file has them, leave one out")


def check_rest(
    threads: object, flags: dict[str, object], settings: Settings | None, progress: Progress | None
) -> None:
    """`flags`: by name, what must be True or False."""
    if threads is not None:
        checked_threads(threads)
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise UsageError(f"{name} is {quoted(value)}: give True or False")
    if settings is not None and not isinstance(settings, Settings):
        raise UsageError(f"settings is {quoted(settings)}: give sampan.core.settings.Settings")
    told = all(callable(getattr(progress, name, None)) for name in ("start", "advance", "finish"))
    if progress is not None and not told:
        raise UsageError(f"progress is {quoted(progress)}: give an object with start, advance and finish")
