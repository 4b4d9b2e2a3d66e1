"""What a folder of safetensors holds, by the names that transformers gives it.

Liberal where transformers is: a body saved without its `model.`, a head of the trainer's beside the model's
own, and a tied head that was stored, which holds where it differs (modeling_utils.py, `tie_weights`).
"""

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import quoted
from sampan.kernels.formats import dequantise
from sampan.models.config import ModelConfig
from sampan.models.family import Family
from sampan.models.registry import describe
from sampan.weights.files import MappedFile, TensorInfo
from sampan.weights.naming import listed
from sampan.weights.quantised import reader as quantised
from sampan.weights.quantised.reader import method_of
from sampan.weights.safetensors import read_safetensors_folder

BASE = "model."
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"
# What trainers put behind the body to judge it: no logit goes through these.
_OTHER_HEADS = ("v_head.", "value_head.", "score.", "classifier.", "reward_head.", "regression_head.")
_BLOCK = 2**22  # values compared at a time


def read_plain(
    folder: Path, fields: Mapping[str, object], config: ModelConfig, undo: ExitStack
) -> tuple[dict[str, TensorInfo], list[MappedFile]]:
    """The tensors of a folder that is not packed, by their full names, and their files."""
    method = method_of(fields, str(folder / "config.json"))
    shards = read_safetensors_folder(folder, quantised=method is not None)
    for shard in shards:
        undo.callback(shard.file.close)
    files = [shard.file for shard in shards]
    model = describe(config)
    draft = model.draft()
    needed = model.weights().keys() | (draft.weights().keys() if draft else ())
    bodies = tuple({f"{name.split('.')[1]}." for name in needed if name.startswith(BASE)})

    def full(name: str, shape: tuple[int, ...]) -> str:
        """With its `model.`, whether or not the tensor was saved as part of a model with a head."""
        whole = BASE + name
        parts = model.family.parts(config, whole, shape).keys()
        beside = model.family.beside
        bare = name.startswith(bodies) or bool(beside and whole.startswith(beside))
        return whole if bare or (parts and parts <= needed) else name

    def reads(name: str, shape: tuple[int, ...]) -> bool:
        name = full(name, shape)
        return name in needed or bool(model.family.parts(config, name, shape))

    if method is None:
        found = {name: info for shard in shards for name, info in shard.tensors.items()}
    else:
        found = quantised.read(method, shards, reads)
    return {full(name, info.shape): info for name, info in found.items()}, files


def without_others(folder: Path, found: Mapping[str, TensorInfo], family: Family) -> dict[str, TensorInfo]:
    """The tensors without the heads of trainers, which are told."""
    others = sorted(name for name in found if name.startswith(_OTHER_HEADS))
    if others:
        warnings.warn(
            f"{folder}: passed over {listed([quoted(name) for name in others])}: a head beside the one of "
            f"{family.name}, which gives no tokens",
            stacklevel=2,
        )
    return {name: info for name, info in found.items() if name not in others}


def with_stored_head(
    folder: Path, config: ModelConfig, found: dict[str, TensorInfo], files: Mapping[Path, MappedFile]
) -> tuple[ModelConfig, dict[str, TensorInfo]]:
    """Configuration and tensors where `tie_word_embeddings` is not the whole truth: a head that is stored and
    not the embedding counts; a head that is stored in the embedding's place is both."""
    head = found.get(HEAD)
    if not config.tied_head or head is None:
        return config, found
    embed = found.get(EMBED)
    if embed is None:
        return config, {EMBED if name == HEAD else name: info for name, info in found.items()}
    if _same(head, embed, files):
        return config, found
    warnings.warn(
        f"{folder}: config.json says tie_word_embeddings, and {HEAD} is stored with other values than "
        f"{EMBED}: the stored head is used, as in transformers",
        stacklevel=2,
    )
    return replace(config, tied_head=False), found


def _same(one: TensorInfo, other: TensorInfo, files: Mapping[Path, MappedFile]) -> bool:
    """Whether two matrices hold the same values, whatever their types."""
    if one.shape != other.shape:
        return False
    columns = prod(one.shape[1:])
    rows = max(1, _BLOCK // max(columns, 1))
    starts = range(0, one.shape[0], rows)
    ends = chain(starts[1:], [one.shape[0]])
    return all(
        np.array_equal(_values(one, start, end, files), _values(other, start, end, files))
        for start, end in zip(starts, ends, strict=True)
    )


def _values(info: TensorInfo, start: int, end: int, files: Mapping[Path, MappedFile]) -> NDArray[np.float32]:
    """Rows of a matrix; their pages are given back."""
    if info.decoder:
        found = info.decoder.values(info.first + start, info.first + end)
        info.decoder.release(info.first + start, info.first + end)
        return found.reshape(end - start, -1)
    each = info.nbytes // info.shape[0]
    place, nbytes = info.offset + start * each, (end - start) * each
    file = files[info.file]
    values = dequantise(file.view(place, nbytes), info.type, (end - start, *info.shape[1:]))
    file.release(place, nbytes)
    return values.reshape(end - start, -1)
