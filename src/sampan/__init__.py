"""Sampan runs, serves, teaches and measures open-weight language models on the hardware people have.

`LLM` is the way in; docs/api.md shows it. Names are imported when they are first used: importing this package
costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.core.errors import (
        ContextOverflow,
        ModelNotFound,
        OutOfMemory,
        RequestError,
        SampanError,
        UnsupportedModel,
        UsageError,
        WeightsError,
    )
    from sampan.core.types import Call, Completion, Delta, Grammar, SamplingParams, Score, TokenLogprob
    from sampan.llm.model import LLM
    from sampan.llm.vectors import Embedding

__version__ = "0.1.0"

_HOMES = {
    "sampan.core.errors": (
        "ContextOverflow", "ModelNotFound", "OutOfMemory", "RequestError", "SampanError", "UnsupportedModel",
        "UsageError", "WeightsError",
    ),
    "sampan.core.types": (
        "Call", "Completion", "Delta", "Grammar", "SamplingParams", "Score", "TokenLogprob",
    ),
    "sampan.llm.model": ("LLM",),
    "sampan.llm.vectors": ("Embedding",),
}  # fmt: skip
__all__ = [
    "LLM", "Call", "Completion", "ContextOverflow", "Delta", "Embedding", "Grammar", "ModelNotFound",
    "OutOfMemory", "RequestError", "SampanError", "SamplingParams", "Score", "TokenLogprob",
    "UnsupportedModel", "UsageError", "WeightsError",
]  # fmt: skip


def __getattr__(name: str) -> object:
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'sampan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
