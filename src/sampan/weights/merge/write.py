"""Writes a merged model as a folder of safetensors, in shards where it is large (huggingface/safetensors,
"Format"; the index is transformers')."""

import json
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel, quoted
from sampan.kernels.formats import TensorType
from sampan.weights.gguf_write import Written
from sampan.weights.merge.model import Merged, Tensor
from sampan.weights.safetensors import TYPES, Entry, read_safetensors_folder
from sampan.weights.save import write_json

Dtype = Literal["keep", "bf16", "f16", "f32"]
DTYPES: Mapping[str, TensorType] = {
    "bf16": TensorType.BF16,
    "f16": TensorType.F16,
    "f32": TensorType.F32,
}
SHARD = 5 * 10**9
"""Bytes that a file has at most, unless one tensor is larger."""
_NAMES = {type: name for name, type in TYPES.items()}
_TORCH = {TensorType.BF16: "bfloat16", TensorType.F16: "float16", TensorType.F32: "float32"}
_LARGEST_HALF = 65504.0

Floats = NDArray[np.float32]


def type_of(tensor: Tensor, dtype: str) -> TensorType:
    """Of a tensor in the file. Vectors are small and keep what they have: a router's bias and norms."""
    wished = DTYPES.get(dtype, tensor.type)
    vector = len(tensor.shape) < 2
    return tensor.type if vector and wished.block_bytes < tensor.type.block_bytes else wished


def rounded(values: Floats, type: TensorType, name: str) -> bytes:
    """The bytes of the nearest numbers of a type, ties to even."""
    if type is TensorType.F16:
        if np.abs(values).max(initial=0) > _LARGEST_HALF:
            raise UnsupportedModel(
                f"tensor {quoted(name)} has values beyond f16's {_LARGEST_HALF:g}: take bf16"
            )
        return values.astype("<f2").tobytes()
    if type is TensorType.F32:
        return values.astype("<f4").tobytes()
    bits = np.ascontiguousarray(values).view(np.uint32)
    even = (bits >> 16) & 1
    return ((bits + 0x7FFF + even) >> 16).astype("<u2").tobytes()


def placed(merged: Merged, tensor: Tensor, type: TensorType) -> Written:
    """A tensor of a merged model."""

    def data() -> Iterable[bytes]:
        for block in merged.blocks(tensor):
            yield rounded(block, type, tensor.name)

    return Written(tensor.name, tensor.shape, type, data)


def tensors_of(merged: Merged, dtype: str) -> list[Written]:
    """All of a merged model: its own, and what else a folder has beside them, such as an encoder of
    pictures."""
    own = [placed(merged, tensor, type_of(tensor, dtype)) for tensor in merged.tensors.values()]
    return own + _beside(merged)


def _beside(merged: Merged) -> list[Written]:
    checkpoint = merged.checkpoint
    family = merged.family
    if not checkpoint.path.is_dir() or checkpoint.packed or not family.beside:
        return []
    found: list[Written] = []
    for shard in read_safetensors_folder(checkpoint.path):
        for entry in shard.entries:
            if entry.name.startswith(family.beside):
                found.append(_copied(entry, shard.file.view(entry.offset, entry.nbytes)))
    return found


def _copied(entry: Entry, raw: NDArray[np.uint8]) -> Written:
    return Written(entry.name, entry.shape, TYPES[entry.dtype], lambda: (raw.tobytes(),))


def total(tensors: Iterable[Written]) -> int:
    """Bytes of their data."""
    return sum(tensor.nbytes for tensor in tensors)


def write_folder(
    tensors: list[Written], folder: Path, advance: Callable[[int], None], shard: int = SHARD
) -> None:
    """`model.safetensors`, or shards with an index."""
    groups: list[list[Written]] = [[]]
    for tensor in tensors:
        if groups[-1] and total(groups[-1]) + tensor.nbytes > shard:
            groups.append([])
        groups[-1].append(tensor)
    if len(groups) == 1:
        _write(groups[0], folder / "model.safetensors", advance)
        return
    places: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        _write(group, folder / name, advance)
        places |= dict.fromkeys((tensor.name for tensor in group), name)
    index = {"metadata": {"total_size": total(tensors)}, "weight_map": places}
    write_json(folder / "model.safetensors.index.json", index)


def _write(tensors: list[Written], path: Path, advance: Callable[[int], None]) -> None:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        entries[tensor.name] = {
            "dtype": _NAMES[tensor.type], "shape": list(tensor.shape), "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            advance(sum(file.write(block) for block in tensor.data()))


def config_of(merged: Merged, tensors: list[Written]) -> dict[str, object]:
    """`config.json`, with the type that most of the numbers have."""
    sizes = {type: sum(prod(t.shape) for t in tensors if t.type is type) for type in _TORCH}
    name = _TORCH[max(sizes, key=lambda type: sizes[type])]
    fields = dict(merged.fields)
    known = [key for key in ("dtype", "torch_dtype") if key in fields] or ["dtype"]
    return fields | dict.fromkeys(known, name)
