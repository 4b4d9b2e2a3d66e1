"""A model ready to use: catalogue, weights, tokenizer, template and engine put together."""

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.core.errors import RequestError, SampanError
from sampan.core.memory import available_memory
from sampan.core.settings import Settings
from sampan.core.types import FinishReason, ModelFiles, SamplingParams, TokenLogprob
from sampan.engine.engine import Engine
from sampan.engine.runner import Runner
from sampan.kernels.formats import TensorType
from sampan.kernels.native import PAGE, machine
from sampan.kernels.program import Cache
from sampan.models.config import ModelConfig
from sampan.models.registry import describe
from sampan.text.chat import ChatTemplate
from sampan.text.reasoning import ReasoningSplitter, starts_inside_reasoning
from sampan.text.stream import TextStream
from sampan.text.tokenizer import Tokenizer
from sampan.weights.checkpoint import Checkpoint, open_checkpoint
from sampan.weights.load import PackedWeights, require_kernel_sizes

_MAX_ROWS = 512  # tokens of a step: a prompt's chunk


@dataclass(frozen=True)
class Delta:
    """What one token added: text to show, reasoning to show, or the end (with whatever was held back)."""

    text: str = ""
    reasoning: str = ""
    token: TokenLogprob | None = None
    finish_reason: FinishReason | None = None


class LLM:
    """An open model in this process. Use as a context manager, or `close()` it.

    `context`: tokens of the longest sequence; by default the model's own, or as many as half of the free
    memory caches. `max_sequences`: how many run side by side; the cache holds `cache_tokens`, by default one
    full context.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        settings: Settings,
        threads: int | None = None,
        context: int | None = None,
        max_sequences: int = 64,
        cache_tokens: int | None = None,
    ) -> None:
        started = time.perf_counter()
        self.files = files
        self.machine = machine(settings, threads)
        with open_checkpoint(files) as checkpoint:
            require_kernel_sizes(checkpoint)
            self.config = checkpoint.config
            self.tokenizer = _tokenizer(files, checkpoint)
            self.template = _template(files, checkpoint)
            self.defaults = _defaults(checkpoint.generation)
            self.weights = PackedWeights(checkpoint, self.machine)
            c = self.config
            dtype = _cache_dtype(checkpoint)
            self.context = min(context or _default_context(c, dtype), c.context, cache_tokens or c.context)
            pages = -(-(cache_tokens or self.context) // PAGE) + 1
            runner = Runner(
                describe(c),
                self.weights,
                self.machine,
                Cache(pages, c.layers, c.kv_heads, c.head_dim, dtype),
                _MAX_ROWS,
            )
        self.engine = Engine(
            runner,
            context=self.context,
            vocabulary=c.vocab,
            eos_ids=self.tokenizer.eos_ids,
            max_sequences=max_sequences,
        )
        self.load_seconds = time.perf_counter() - started

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing outlives the object but what Python still refers to."""
        del self.engine, self.weights

    def prompt(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The conversation rendered by the model's template, up to where the answer starts."""
        if self.template is None:
            raise RequestError(f"{self.files.name} has no chat template: use --raw")
        return self.template.render(messages, add_generation_prompt=True, **options)

    def encode(self, text: str, *, templated: bool) -> list[int]:
        """Token ids; a templated prompt brings its own beginning-of-sequence token."""
        return self.tokenizer.encode(text, add_bos=not templated)

    def stream(
        self, prompt: str, sampling: SamplingParams, *, templated: bool
    ) -> Generator[Delta, None, None]:
        """One answer as it is made. Closing the iterator stops it."""
        text = TextStream(self.tokenizer, sampling.stop)
        split = ReasoningSplitter(starts_inside=templated and starts_inside_reasoning(prompt))
        for event in self.engine.stream(self.encode(prompt, templated=templated), sampling):
            if event.error is not None:
                raise SampanError(event.error)
            assert event.token is not None
            reason = event.finish_reason
            ended = reason == "stop" and event.token.token in self.engine.eos_ids
            pieces = list(split.push("" if ended else text.push(event.token.token)))
            if text.stopped:
                reason = "stop"
            if reason is not None:
                pieces += [*split.push(text.finish()), *split.finish()]
            yield _delta(pieces, event.token, reason)
            if reason is not None:
                return

    def score(self, ids: Sequence[int]) -> npt.NDArray[np.float64]:
        """Natural-log probability of each of ids[1:] after what precedes it."""
        return self.engine.score(ids)


def _delta(pieces: Iterable[Any], token: TokenLogprob, reason: FinishReason | None) -> Delta:
    shown = {"text": "", "reasoning": ""}
    for piece in pieces:
        shown[piece.kind] += piece.text
    return Delta(shown["text"], shown["reasoning"], token, reason)


def _tokenizer(files: ModelFiles, checkpoint: Checkpoint) -> Tokenizer:
    return (
        Tokenizer.from_gguf(checkpoint.metadata)
        if files.kind == "gguf"
        else Tokenizer.from_folder(files.path)
    )


def _template(files: ModelFiles, checkpoint: Checkpoint) -> ChatTemplate | None:
    gguf = files.kind == "gguf"
    return ChatTemplate.from_gguf(checkpoint.metadata) if gguf else ChatTemplate.from_folder(files.path)


def _cache_dtype(checkpoint: Checkpoint) -> str:
    """The cache keeps bf16 unless every matrix is float32."""
    kinds = {info.type for info in checkpoint.tensors.values() if len(info.shape) == 2}
    return "f32" if kinds == {TensorType.F32} else "bf16"


def _default_context(c: ModelConfig, dtype: str) -> int:
    """The model's context, or what half of the free memory caches where that is less."""
    free = available_memory()
    if free is None:
        return c.context
    token_bytes = 2 * c.layers * c.kv_heads * c.head_dim * (4 if dtype == "f32" else 2)
    return max(min(c.context, free // 2 // token_bytes), PAGE)


def _defaults(generation: Mapping[str, object]) -> SamplingParams:
    """The model's own sampling: `generation_config.json`, where a model that does not sample is greedy.

    A GGUF file has none: then the values that users of such files know, llama.cpp's.
    """
    if not generation:
        return SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
    defaults = SamplingParams()
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    given = {n: v for n in names if isinstance(v := generation.get(n), int | float)}
    if not generation.get("do_sample", False):
        given["temperature"] = 0
    return replace(defaults, **given)  # type: ignore[arg-type]
