"""GGUF files, versions 2 and 3, little endian (ggml docs/gguf.md): metadata, and where each tensor lies.

Nothing in a file is believed before it is checked against the file's size, and nothing is allocated that its
bytes do not justify. A damaged or hostile file gives a `WeightsError` that names file, field and byte offset,
a tensor type without a decoder an `UnsupportedModel`. Big-endian files and version 1 are refused. A model in
several files (`name-00001-of-0000N.gguf`) is read from its first part by `read_gguf_parts`.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NamedTuple

from sampan.core.errors import UnsupportedModel, WeightsError, quoted
from sampan.kernels.formats import TensorType, form_of
from sampan.weights.files import MappedFile, TensorInfo, is_there
from sampan.weights.values import Values

_MAX_COUNT = 65536  # of tensors and of metadata keys; the largest models have about 2,000
_MAX_DIMS = 4
_ALIGNMENTS = tuple(1 << bit for bit in range(3, 17))
_LEAST_KEY, _LEAST_TENSOR = 14, 33  # bytes of the shortest metadata pair and tensor line
_TYPES = {type.number: type for type in TensorType}
# ggml.h, enum ggml_type: named so that a refusal says what the file holds.
_UNREAD_TYPES = {
    9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip

Metadata = dict[str, object]


@dataclass(frozen=True, eq=False)
class Gguf:
    """One file. `metadata` values are Python's: numbers, bool, str, a list (of str, bool or lists) or an
    `array.array` of numbers. `tensors` have GGUF's names and row-major shapes."""

    file: MappedFile
    metadata: Metadata
    tensors: dict[str, TensorInfo]


class _Line(NamedTuple):
    """A line of the tensor list: `offset` counts from the start of the data, `at` is the line's own byte."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    at: int


def read_gguf(path: Path) -> Gguf:
    """Map a file and read its header; the tensors' data is not touched."""
    with ExitStack() as undo:
        file = MappedFile(path)
        undo.callback(file.close)
        gguf = _read(file)
        undo.pop_all()
        return gguf


def read_gguf_parts(path: Path) -> list[Gguf]:
    """The file, or all parts of a split model whose first part is at `path`, in order."""
    with ExitStack() as undo:
        parts = [read_gguf(path)]
        undo.callback(parts[0].file.close)
        count = _part_count(parts[0])
        for number in range(1, count):
            parts.append(read_gguf(_part_path(path, number, count)))
            undo.callback(parts[-1].file.close)
        _check_parts(parts)
        undo.pop_all()
        return parts


def _part_count(first: Gguf) -> int:
    count, number = first.metadata.get("split.count", 1), first.metadata.get("split.no", 0)
    if type(count) is not int or type(number) is not int or not 0 <= number < max(count, 1):
        raise WeightsError(
            f"{first.file.path}: split.no {quoted(number)} is no part of split.count {quoted(count)}"
        )
    if number:
        raise WeightsError(f"{first.file.path}: is part {number + 1} of {count}: open the first part")
    return max(count, 1)


def _part_path(first: Path, number: int, count: int) -> Path:
    ending = f"-00001-of-{count:05d}.gguf"
    if not first.name.endswith(ending):
        raise WeightsError(f"{first}: is the first of {count} parts: its name must end in {ending}")
    path = first.with_name(first.name.removesuffix(ending) + f"-{number + 1:05d}-of-{count:05d}.gguf")
    if not is_there(path):
        raise WeightsError(f"{path}: part {number + 1} of {count} is missing: fetch it too")
    return path


def _check_parts(parts: list[Gguf]) -> None:
    seen: set[str] = set()
    for number, part in enumerate(parts):
        path, metadata = part.file.path, part.metadata
        if number and (metadata.get("split.no"), metadata.get("split.count")) != (number, len(parts)):
            raise WeightsError(
                f"{path}: split.no and split.count do not say part {number + 1} of {len(parts)}"
            )
        if twice := seen & part.tensors.keys():
            raise WeightsError(f"{path}: tensor {quoted(min(twice))} is also in an earlier part")
        seen |= part.tensors.keys()
    total = parts[0].metadata.get("split.tensors.count", len(seen))
    if total != len(seen):
        raise WeightsError(
            f"{parts[0].file.path}: split.tensors.count is {quoted(total)}, the parts hold {len(seen)}"
        )


def _read(file: MappedFile) -> Gguf:
    values = Values(file)
    _check_preamble(values)
    tensor_count = _count(values, "tensor count", _LEAST_TENSOR)
    metadata = _metadata(values, _count(values, "metadata count", _LEAST_KEY))
    lines = [_line(values) for _ in range(tensor_count)]
    return Gguf(file, metadata, _placed(values, lines, _alignment(values, metadata)))


def _check_preamble(values: Values) -> None:
    if values.file.data[:4] != b"GGUF":
        raise WeightsError(f"{values.file.path}: is no GGUF file")
    values.position = 4
    version = values.u32("version")
    if version and not version & 0xFFFF:
        raise values.fail("version", 4, "is big endian: convert the model again as little endian")
    if version not in (2, 3):
        raise values.fail("version", 4, f"is {version}, readable are 2 and 3: convert the model again")


def _count(values: Values, field: str, least: int) -> int:
    at = values.position
    count = values.count(field, least)
    if count > _MAX_COUNT:
        raise values.fail(field, at, f"is {count}, more than the {_MAX_COUNT} allowed")
    return count


def _metadata(values: Values, count: int) -> Metadata:
    metadata: Metadata = {}
    for _ in range(count):
        at = values.position
        key = values.name("metadata key")
        if key in metadata:
            raise values.fail(f"metadata key {quoted(key)}", at, "appears twice")
        metadata[key] = values.value(f"metadata {quoted(key)}")
    return metadata


def _alignment(values: Values, metadata: Metadata) -> int:
    value = metadata.get("general.alignment", 32)
    if type(value) is not int or value not in _ALIGNMENTS:
        raise WeightsError(
            f"{values.file.path}: general.alignment is {quoted(value)}, not a power of two from 8 to 65536"
        )
    return value


def _line(values: Values) -> _Line:
    at = values.position
    name = values.name("tensor name")
    field = f"tensor {quoted(name)}"
    dims = _dims(values, f"{field} dimensions")
    type = _type(values, field)
    if dims[0] % type.block:
        raise values.fail(f"{field} dimensions", at, f"are {dims}: {type.name} has blocks of {type.block}")
    return _Line(name, tuple(reversed(dims)), type, values.u64(f"{field} offset"), at)


def _dims(values: Values, field: str) -> list[int]:
    at = values.position
    count = values.u32(field)
    if not 1 <= count <= _MAX_DIMS:
        raise values.fail(field, at, f"are {count} in number, not 1 to {_MAX_DIMS}")
    dims = [values.u64(field) for _ in range(count)]
    if 0 in dims or prod(dims) >= 2**63:
        raise values.fail(field, at, f"are {dims}: each must be positive, their product below 2^63")
    return dims


def _type(values: Values, field: str) -> TensorType:
    at = values.position
    number = values.u32(f"{field} type")
    if number not in _TYPES:
        readable = ", ".join(type.name for type in TensorType)
        known = _UNREAD_TYPES.get(number, "of no known name")
        raise UnsupportedModel(
            f"{values.file.path}: {field} type at byte {at} is {number} ({known}): readable are {readable}"
        )
    return _TYPES[number]


def _placed(values: Values, lines: list[_Line], alignment: int) -> dict[str, TensorInfo]:
    """Where each tensor lies in the file, once it is certain that it lies there whole and alone."""
    start = -(-values.position // alignment) * alignment
    file = values.file
    tensors: dict[str, TensorInfo] = {}
    for name, shape, type, offset, at in lines:
        nbytes = type.nbytes(shape)
        field = f"tensor {quoted(name)}"
        if name in tensors:
            raise values.fail(field, at, "appears twice")
        if offset % alignment:
            raise values.fail(f"{field} offset", at, f"is {offset}, not a multiple of {alignment}")
        if start + offset + nbytes > file.size:
            end = f"has {nbytes} bytes and ends past the file's {file.size}: it is cut short or damaged"
            raise values.fail(f"{field} data", start + offset, end)
        tensors[name] = TensorInfo(name, shape, type, file.path, start + offset, nbytes, form_of(type))
    for before, tensor in pairwise(sorted(tensors.values(), key=lambda tensor: tensor.offset)):
        if before.offset + before.nbytes > tensor.offset:
            field = f"tensor {quoted(tensor.name)} data"
            raise values.fail(field, tensor.offset, f"overlaps tensor {quoted(before.name)}")
    return tensors
