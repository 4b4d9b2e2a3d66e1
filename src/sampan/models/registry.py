"""Families by name, found in this folder's files and in those that `SAMPAN_FAMILIES` names.

A file that defines `FAMILY` is a family; nothing lists them. `SAMPAN_FAMILIES`: paths of such files of one's
own, apart as in `PATH`.
"""

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sampan import models
from sampan.core.errors import UnsupportedModel, UsageError, quoted
from sampan.kernels.ops import Batch, Ops, Weight
from sampan.models.config import GgufModel, ModelConfig
from sampan.models.family import Family
from sampan.models.fields import Fields

VARIABLE = "SAMPAN_FAMILIES"


def families() -> Mapping[str, Family]:
    """Every family there is, by name."""
    return _families(os.environ.get(VARIABLE, ""))


@dataclass(frozen=True)
class Model:
    """A described model and how it runs."""

    config: ModelConfig
    description: Any
    family: Family

    def forward(self, ops: Ops, batch: Batch) -> Any:
        """Logits of the sampled rows."""
        return self.family.forward(ops, self.description, batch)

    def weights(self) -> dict[str, Weight]:
        """Every tensor the model needs, by name."""
        return {w.name: w for w in _weights(self.description)}


def describe(config: ModelConfig) -> Model:
    """The model of this configuration."""
    family = family_named(config.family, "model family")
    return Model(config, family.build(config), family)


def from_hf(config: Mapping[str, object], source: str = "config.json") -> ModelConfig:
    """The configuration in a Hugging Face `config.json`."""
    given = Fields(config, source)
    name = given.text("model_type")
    return family_named(name, f"{source}: model_type").from_hf(given)


def from_gguf(model: GgufModel) -> ModelConfig:
    """The configuration of a GGUF file."""
    name = Fields(model.metadata, model.source).text("general.architecture")
    family = family_named(name, f"{model.source}: general.architecture")
    if family.from_gguf is None:
        raise UnsupportedModel(
            f"{model.source}: {name} is not read from GGUF: give the folder of safetensors"
        )
    return family.from_gguf(model)


def family_named(name: str, where: str) -> Family:
    """A family, or `UnsupportedModel` with those that there are; `where`: who says the name."""
    known = families()
    if name not in known:
        raise UnsupportedModel(f"{where} {name[:80]!r} is not supported: {', '.join(known)} are")
    return known[name]


@cache
def _families(paths: str) -> Mapping[str, Family]:
    modules = [
        importlib.import_module(f"{models.__name__}.{m.name}") for m in pkgutil.iter_modules(models.__path__)
    ]
    found = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    found += [_family_of(_loaded(path), path) for path in paths.split(os.pathsep) if path]
    by_name: dict[str, Family] = {}
    for family in found:
        if family.name in by_name:
            raise UsageError(f"{VARIABLE}: family {quoted(family.name)} is there already")
        by_name[family.name] = family
    return by_name


def _loaded(path: str) -> ModuleType:
    """A Python file as a module."""
    file = Path(path)
    spec = importlib.util.spec_from_file_location(f"sampan_family_{file.stem}", file)
    if file.suffix != ".py" or not file.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"{VARIABLE}: {quoted(path)} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{VARIABLE}: {quoted(path)}: {type(error).__name__}: {error}") from error
    return module


def _family_of(module: ModuleType, path: str) -> Family:
    family = getattr(module, "FAMILY", None)
    if not isinstance(family, Family):
        raise UsageError(f"{VARIABLE}: {quoted(path)} defines no FAMILY of type sampan.models.family.Family")
    return family


def _weights(node: Any) -> Iterator[Weight]:
    if isinstance(node, Weight):
        yield node
    elif isinstance(node, tuple):
        for item in node:
            yield from _weights(item)
    elif is_dataclass(node):
        for part in fields(node):
            yield from _weights(getattr(node, part.name))
