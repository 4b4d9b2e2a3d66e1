"""The model's tensors among those of its files; where one of these holds many, each is some of its rows."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from math import prod
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel, WeightsError, quoted
from sampan.kernels.ops import HIDDEN, Weight
from sampan.models.config import ModelConfig
from sampan.models.family import Family, Parts
from sampan.models.registry import describe
from sampan.weights.files import TensorInfo
from sampan.weights.purpose import Purpose


def named(
    found: Iterable[tuple[str, TensorInfo]], family: Family, config: ModelConfig
) -> Mapping[str, TensorInfo]:
    """The model's tensors by name: those of the file, or the parts of one that holds many."""
    tensors: dict[str, TensorInfo] = {}
    for name, info in found:
        rows = family.parts(config, name, info.shape)
        own = _parts(info, rows) if rows else {name: info}
        if rows and name.endswith(family.turned):
            own = {part: replace(each, turned=True) for part, each in own.items()}
        if twice := tensors.keys() & own.keys():
            raise WeightsError(f"{info.file}: tensor {quoted(info.name)} holds {min(twice)} a second time")
        tensors |= own
    return MappingProxyType(tensors)


def _parts(info: TensorInfo, rows: Parts) -> dict[str, TensorInfo]:
    """The tensors that one of the file's holds, each a run of its rows."""
    total = prod(info.shape[:-1] or info.shape)
    if sum(rows.values()) != total or min(rows.values()) < 1:
        problem = f"has {total} rows, the configuration says {sum(rows.values())} for {listed(list(rows))}"
        raise WeightsError(f"{info.file}: tensor {quoted(info.name)} at byte {info.offset} {problem}")
    if info.decoder:
        return _parts_of_decoded(info, rows)
    row, rest = divmod(info.nbytes, total)
    if rest:
        raise UnsupportedModel(f"{info.file}: tensor {quoted(info.name)} is a quantised vector of many parts")
    offset, parts = info.offset, {}
    for name, count in rows.items():
        shape = (count, *info.shape[-1:]) if len(info.shape) > 1 else (count,)
        parts[name] = replace(info, shape=shape, offset=offset, nbytes=count * row)
        offset += count * row
    return parts


def _parts_of_decoded(info: TensorInfo, rows: Parts) -> dict[str, TensorInfo]:
    assert info.decoder is not None
    first, parts = info.first, {}
    for name, count in rows.items():
        form = info.decoder.form_at(first)
        parts[name] = replace(info, shape=(count, info.shape[-1]), first=first, form=form)
        first += count
    return parts


def row_order(
    interleaved: Mapping[str, str], config: ModelConfig, name: str, rows: int
) -> NDArray[np.intp] | None:
    """Where Hugging Face's rows lie in a GGUF tensor: its row i is the file's row order[i]. None: in the same
    order. `interleaved`: as `Family` has it."""
    linear = name.rpartition(".")[0].rpartition(".")[2]
    if linear not in interleaved:
        return None
    heads: int = getattr(config, interleaved[linear])
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def weights_of(config: ModelConfig, purpose: Purpose) -> Mapping[str, Weight]:
    """What a model needs for its purpose."""
    model = describe(config)
    return model.weights() if purpose.pooling is None else model.graph(HIDDEN).weights()


def listed(tensors: list[str]) -> str:
    """Names for one line; a long list is cut and counted."""
    shown = ", ".join(tensors[:8])
    return shown if len(tensors) <= 8 else f"{shown} and {len(tensors) - 8} more"


def complete(
    where: str,
    config: ModelConfig,
    tensors: Mapping[str, TensorInfo],
    packed: Collection[str],
    purpose: Purpose,
) -> Mapping[str, TensorInfo]:
    """Every tensor that the model needs, in its shape, and no other; what differs is listed by name. A vector
    where the model has a matrix of one row is that row. A layer for drafts is there whole, or not at all."""
    model = describe(config)
    expected = model.weights()
    needed = dict(weights_of(config, purpose))
    if (draft := model.draft()) and model.family.draft:
        owns, own = model.family.draft.owns, draft.weights()
        others = {name for name in tensors if name not in own and owns(name, config)}  # copies, more layers
        tensors = {name: info for name, info in tensors.items() if name not in others}
        if (own.keys() - expected.keys()) & tensors.keys():
            expected, needed = expected | own, needed | dict(own)
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise WeightsError(f"{where}: tensor {listed(missing)} is missing: the file is incomplete")
    rows: dict[str, TensorInfo] = {}
    for name, weight in expected.items():
        info = tensors.get(name)
        if info is not None and weight.shape == (1, *info.shape):
            info = rows[name] = replace(info, shape=weight.shape)
        if info is None:
            continue
        turned = info.turned or name in packed  # packed as products read it
        if info.shape != weight.shape and not (turned and info.shape == weight.shape[::-1]):
            problem = f"has shape {list(info.shape)}, the configuration says {list(weight.shape)}"
            raise WeightsError(f"{info.file}: tensor {quoted(info.name)} at byte {info.offset} {problem}")
    extra = sorted(tensors.keys() - expected.keys())
    if extra:
        given, family = listed([quoted(name) for name in extra]), config.family
        raise UnsupportedModel(f"{where}: tensor {given} has no place in a {family} model")
    return MappingProxyType({**tensors, **rows})
