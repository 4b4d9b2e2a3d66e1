"""Families by name, found in this folder's files and in those that `SAMPAN_FAMILIES` names.

A file that defines `FAMILY` is a family; nothing lists them.
"""

import importlib
import importlib.util
import pkgutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sampan import models
from sampan.core.errors import UnsupportedModel, UsageError, quoted, shortened
from sampan.core.settings import family_files
from sampan.kernels.graph import Graph
from sampan.kernels.ops import Batch, Ops, Weight
from sampan.kernels.recorder import record
from sampan.models.config import GgufModel, ModelConfig
from sampan.models.family import Family
from sampan.models.fields import Fields


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

    def draft(self) -> "Model | None":
        """Its layer for drafts as a model of its own, None where the family has none."""
        draft = self.family.draft
        if draft is None:
            return None
        family = replace(self.family, build=draft.build, forward=draft.forward, draft=None)
        return Model(self.config, draft.build(self.config), family)

    def graph(self, *outputs: str) -> Graph:
        """What it computes to give these outputs."""
        return record(self.forward).only(outputs)


def families() -> Mapping[str, Family]:
    """Every family there is, by name."""
    return _families(family_files())


def describe(config: ModelConfig) -> Model:
    """The model of this configuration."""
    family = family_named(config.family, "model family")
    return Model(config, family.build(config), family)


def family_named(name: str, where: str) -> Family:
    """A family, or `UnsupportedModel` with those that there are; `where`: who says the name."""
    return _found(name, where, lambda family: (family.name,))


def from_hf(config: Mapping[str, object], source: str = "config.json") -> ModelConfig:
    """The configuration in a Hugging Face `config.json`."""
    given = Fields(config, source)
    kind = given.text("model_type")
    family = _found(kind, f"{source}: model_type", lambda family: family.model_types)
    return _own(family.from_hf(given), family, "from_hf")


def from_gguf(model: GgufModel) -> ModelConfig:
    """The configuration of a GGUF file."""
    name = model.architecture
    where = f"{model.source}: general.architecture"
    special = [f for f in families().values() if name in f.architectures and f.special and f.special(model)]
    family = special[0] if special else _found(name, where, _general)
    if family.from_gguf is None:
        raise UnsupportedModel(
            f"{model.source}: {name} is not read from GGUF: give the folder of safetensors"
        )
    return _own(family.from_gguf(model), family, "from_gguf")


@cache
def load_file(path: Path) -> ModuleType:
    """The Python file of a family as a module, loaded once."""
    name = f"sampan_family_{zlib.crc32(str(path).encode()):08x}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if path.suffix != ".py" or not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"family {shortened(path)} is no Python file: SAMPAN_FAMILIES names files")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look it up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(
            f"family {shortened(path)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return module


@cache
def _families(files: tuple[Path, ...]) -> Mapping[str, Family]:
    names = [f"{models.__name__}.{module.name}" for module in pkgutil.iter_modules(models.__path__)]
    found = [
        _family_of(module) for module in map(importlib.import_module, names) if hasattr(module, "FAMILY")
    ]
    found += [_family_of(load_file(path)) for path in files]
    for names_of in (lambda f: (f.name,), lambda f: f.model_types, _general):
        taken = [name for family in found for name in names_of(family)]
        if twice := [name for name in taken if taken.count(name) > 1]:
            raise UsageError(f"two families are called {quoted(twice[0])}: look at SAMPAN_FAMILIES")
    return {family.name: family for family in found}


def _general(family: Family) -> tuple[str, ...]:
    """Architectures whose files are the family's where they are no other's."""
    return () if family.special else family.architectures


def _family_of(module: ModuleType) -> Family:
    family = getattr(module, "FAMILY", None)
    if not isinstance(family, Family):
        given = "has no FAMILY" if family is None else f"has a FAMILY of type {type(family).__name__}"
        raise UsageError(f"family {shortened(module.__file__)} {given}: give a sampan.models.family.Family")
    return family


def _found(name: str, where: str, names_of: Callable[[Family], tuple[str, ...]]) -> Family:
    known = {own: family for family in families().values() for own in names_of(family)}
    if name not in known:
        raise UnsupportedModel(f"{where} {name[:80]!r} is not supported: {', '.join(known)} are")
    return known[name]


def _own(config: ModelConfig, family: Family, reader: str) -> ModelConfig:
    """What a family's reader gave, once others can rely on it."""
    if not isinstance(config, ModelConfig) or config.family != family.name:
        raise UsageError(f"family {family.name}: {reader} gives no ModelConfig of this family")
    return config


def _weights(node: Any) -> Iterator[Weight]:
    if isinstance(node, Weight):
        yield node
    elif isinstance(node, tuple | list):
        for item in node:
            yield from _weights(item)
    elif is_dataclass(node):
        for part in fields(node):
            yield from _weights(getattr(node, part.name))
