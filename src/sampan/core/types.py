"""Frozen data that crosses folders."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk, found by the catalogue.

    `path` is a `.gguf` file (`kind == "gguf"`) or a folder with `config.json`, `*.safetensors` and
    `tokenizer.json` (`kind == "folder"`). `name` is what the user asked for.
    """

    path: Path
    kind: Literal["gguf", "folder"]
    name: str
    source: str


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen. `temperature == 0` is greedy; `top_k == 0` and `top_p == 1` mean off.

    `logprobs`: None for none, otherwise the number of alternatives reported beside the chosen token.
    `seed`: None draws a fresh one. Penalties follow the OpenAI (presence, frequency) and CTRL
    (repetition, arXiv:1909.05858) definitions.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """The natural-log probability of one chosen token and of its best alternatives (id, logprob)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Licence:
    """A licence in words: what it allows and what it asks."""

    name: str
    commercial_use: bool
    allows: str
    asks: str
    url: str = ""
