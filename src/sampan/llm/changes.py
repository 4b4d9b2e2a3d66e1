"""What of a loaded model can change while it answers: its adapters and its weights.

Each change happens between two steps, on the engine's thread. Calls from several threads take turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sampan.core.errors import RequestError, UsageError, quoted
from sampan.core.types import Grammar, Pooling, SamplingParams, Scoring
from sampan.engine.constraint import Constraint
from sampan.engine.engine import Engine
from sampan.llm.answer import Prompt
from sampan.llm.base import BaseLLM
from sampan.llm.driver import Driver, Request
from sampan.models.registry import describe
from sampan.text.grammar import GrammarConstraint

When = Literal["idle", "now"]


class Changes(BaseLLM):
    """See `LLM`."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that requests can choose."""
        return tuple(self._adapters)

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
        adapter: str | None = None,
        salt: bytes = b"",
        scoring: Scoring | None = None,
        pooling: Pooling | None = None,
    ) -> Request:
        """Something to hand to `driver`. `salt`: only requests of the same share cached prefixes. `scoring`,
        `pooling`: how the prompt's own tokens are scored, or become a vector."""
        chosen = None if adapter is None else self._adapter(adapter)
        return Request(ids, sampling, constraint, chosen, salt, scoring, pooling)

    def compile(self, grammar: Grammar, *, thinking: bool = False) -> GrammarConstraint:
        """A grammar made ready: each `copy` of it constrains one request. `thinking`: the prompt has opened a
        block of reasoning, behind which it begins. Raises `RequestError`."""
        return self._grammars.compile(grammar, thinking=thinking)

    def is_compiled(self, grammar: Grammar, *, thinking: bool = False) -> bool:
        """Whether `compile` takes no time."""
        return self._grammars.known(grammar, thinking)

    @property
    def weights_version(self) -> int:
        """0, and one more for each `update_weights`."""
        return self.engine.weights_version

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Load a LoRA adapter from a folder that PEFT wrote; requests choose it with `adapter=name`.

        Raises `WeightsError` and `UnsupportedModel` for what cannot be read or honoured, `OutOfMemory` where
        `adapters` and `adapter_rank` leave no room for it, and `RequestError` for a name that is taken.
        """
        from sampan.weights.files import given_path
        from sampan.weights.lora import read_lora

        if not isinstance(name, str) or not name:
            raise UsageError(f"name is {quoted(name)}: give the adapter a name")
        folder = given_path("path", path)
        weights = self._driver.call(lambda _engine: describe(self.config).weights())
        adapter = read_lora(folder, weights)

        def load(engine: Engine) -> None:
            if name in self._adapters:
                raise RequestError(f"an adapter named {quoted(name)} is loaded: unload it first")
            self._adapters[name] = engine.load_adapter(adapter)

        try:
            self._driver.call(load)
        finally:
            adapter.close()

    def unload_adapter(self, name: str) -> None:
        """Take an adapter away. Requests that use it are answered; its memory is free after the last one."""

        def unload(engine: Engine) -> None:
            engine.unload_adapter(self._adapter(name))
            del self._adapters[name]

        self._driver.call(unload)

    def update_weights(self, source: str | Path | Mapping[str, Any], *, when: When = "idle") -> int:
        """Give the model new weights, in place and in the formats that it has; returns their version.

        `source`: arrays of floats by Hugging Face's names, or a safetensors file or folder; what is not in it
        stays as it is. `when`: "idle" waits for the requests that run, and lets those that come later wait;
        "now" lets them go on with the new weights over the keys and values that they have. What the old
        weights computed is not found again. Raises `WeightsError` and `UnsupportedModel`, and has then
        changed nothing.
        """
        from sampan.weights.files import given_path
        from sampan.weights.update import from_arrays, from_files

        self._driver.require_here()
        if not isinstance(when, str) or when not in ("idle", "now"):
            raise UsageError(f"when is {quoted(when)}: give 'idle' or 'now'")
        idle = when == "idle"
        if isinstance(source, Mapping):
            arrays = from_arrays(source)
            return self._driver.call(lambda engine: engine.update_weights(arrays), idle=idle)
        with from_files(given_path("source", source)) as tensors:
            return self._driver.call(lambda engine: engine.update_weights(tensors), idle=idle)

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

    def _adapted(self, prompts: Sequence[Prompt], adapter: str | None) -> list[Prompt]:
        """The prompts for this adapter."""
        if adapter is None:
            return list(prompts)
        chosen = self._adapter(adapter)
        return [replace(prompt, adapter=chosen) for prompt in prompts]
