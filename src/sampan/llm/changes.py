"""What of a loaded model can change while it answers: its adapters and its weights.

Each change happens between two steps, on the engine's thread. Calls from several threads take turns.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sampan.core.errors import RequestError, UsageError, quoted
from sampan.engine.engine import Engine
from sampan.kernels.backend import Adapter
from sampan.llm.driver import Driver
from sampan.models.config import ModelConfig
from sampan.models.registry import describe

When = Literal["idle", "now"]


class Adapters:
    """The LoRA adapters of a model by their names."""

    def __init__(self, driver: Driver, config: ModelConfig) -> None:
        self._driver = driver
        self._config = config
        self._ids: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that are loaded."""
        return tuple(self._ids)

    def named(self, name: str) -> int:
        """The engine's id of one; `RequestError` where there is none."""
        found = self._ids.get(name) if isinstance(name, str) else None
        if found is None:
            there = ", ".join(quoted(each) for each in list(self._ids)[:8]) or "none is"
            raise RequestError(f"no adapter named {quoted(name)} is loaded: {there}")
        return found

    def load(self, name: str, path: str | Path) -> None:
        """See `LLM.load_adapter`."""
        from sampan.weights.files import given_path
        from sampan.weights.lora_gguf import read_adapter

        if not isinstance(name, str) or not name:
            raise UsageError(f"name is {quoted(name)}: give the adapter a name")
        found = given_path("path", path)
        weights = self._driver.call(lambda _engine: describe(self._config).weights())
        adapter = read_adapter(found, self._config, weights)

        def load(engine: Engine) -> None:
            if name in self._ids:
                raise RequestError(f"an adapter named {quoted(name)} is loaded: unload it first")
            self._ids[name] = engine.load_adapter(adapter)

        try:
            self._driver.call(load)
        finally:
            adapter.close()
        for said in adapter.passed:
            warnings.warn(f"{adapter.where}: passed over {said}", stacklevel=2)

    def put(self, name: str, adapter: Adapter) -> int:
        """Give `name` these numbers, once nobody is being answered; what others of this name computed is not
        found again. Returns the engine's id of it, which no other ever has."""

        def put(engine: Engine) -> int:
            if name in self._ids:
                engine.unload_adapter(self._ids.pop(name))
            self._ids[name] = engine.load_adapter(adapter)
            return self._ids[name]

        return self._driver.call(put, idle=True)

    def unload(self, name: str) -> None:
        """See `LLM.unload_adapter`."""

        def unload(engine: Engine) -> None:
            engine.unload_adapter(self.named(name))
            del self._ids[name]

        self._driver.call(unload)


def update_weights(driver: Driver, source: str | Path | Mapping[str, Any], when: When) -> int:
    """See `LLM.update_weights`."""
    from sampan.weights.files import given_path
    from sampan.weights.update import from_arrays, from_files

    driver.require_here()
    if not isinstance(when, str) or when not in ("idle", "now"):
        raise UsageError(f"when is {quoted(when)}: give 'idle' or 'now'")
    idle = when == "idle"
    if isinstance(source, Mapping):
        arrays = from_arrays(source)
        return driver.call(lambda engine: engine.update_weights(arrays), idle=idle)
    with from_files(given_path("source", source)) as tensors:
        return driver.call(lambda engine: engine.update_weights(tensors), idle=idle)
