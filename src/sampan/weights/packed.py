"""Packed weights on disk: the kernels' panels, mapped and used as they lie.

A packed file is a `model.safetensors` in the standard container. Its `__metadata__` says `format` "sampan"
and `version` "2". Every matrix is one U8 tensor: the panels of `kernels/cpu/native/kernels.h`, then zeros up
to a multiple of 64 bytes. Under the tensor's name the `__metadata__` holds a JSON object: `parts` (the
tensors that lie one after another in the matrix, by Hugging Face's name, each from a whole panel on, with
their rows), `n`, `k`, `store`, `group`, `wide`, `has_min`, `zero` (of kernels.h), `bytes` (without the
zeros), `source` (the type whose formula the codes follow: the file's own where it was kept, otherwise Q8_0
or Q4_1, whatever the group) and, where a tensor has fewer inputs than `k`, its `inputs`. What is no matrix of
products is an F32 tensor. The header is padded with spaces and the matrices come first, so that each starts
at a multiple of 64 bytes.
"""

import json
import mmap
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path

from sampan.core.errors import WeightsError, quoted
from sampan.kernels.formats import ALIGNMENT, PackedMatrix, TensorType
from sampan.models.fields import Fields
from sampan.weights.files import MappedFile, TensorInfo, damaged, is_there
from sampan.weights.safetensors import PACKED, Container, Entry, parse_json, read_container, typed

_VERSION = "2"
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Packed:
    """A packed file. `tensors`: every part of every matrix, and the vectors, by Hugging Face's names;
    `matrices`: the matrix that holds a part."""

    file: MappedFile
    tensors: dict[str, TensorInfo]
    matrices: dict[str, PackedMatrix]


def header(matrices: Mapping[str, PackedMatrix], vectors: Mapping[str, tuple[int, ...]]) -> bytes:
    """The first bytes of a packed file, up to its data: length and JSON; `vectors`: shapes of float32
    tensors."""
    sizes: dict[str, tuple[str, tuple[int, ...], int]] = {
        name: ("U8", (matrix.stored,), matrix.stored) for name, matrix in matrices.items()
    }
    sizes |= {name: ("F32", shape, 4 * prod(shape)) for name, shape in vectors.items()}
    ends = list(accumulate(nbytes for _, _, nbytes in sizes.values()))
    texts = {name: matrix.text() for name, matrix in matrices.items()}
    entries: dict[str, object] = {"__metadata__": {"format": PACKED, "version": _VERSION} | texts}
    for end, (name, (dtype, shape, nbytes)) in zip(ends, sizes.items(), strict=True):
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end - nbytes, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def read_packed(folder: Path) -> Packed | None:
    """The packed file of a folder; None where its weights are plain tensors."""
    path = folder / "model.safetensors"
    if not is_there(path):
        return None
    container = read_container(path, quantised=True)  # what a plain one may hold is judged elsewhere
    with ExitStack() as undo:
        undo.callback(container.file.close)
        if not container.packed:
            return None
        packed = _read(path, container)
        _prefer_huge_pages(container.file)
        undo.pop_all()
        return packed


def _prefer_huge_pages(file: MappedFile) -> None:
    # What is not in the page cache yet is then read into huge pages, where the file system can; a hint.
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            file.data.madvise(mmap.MADV_HUGEPAGE)


def _read(path: Path, container: Container) -> Packed:
    version = container.metadata.get("version")
    if version != _VERSION:
        raise WeightsError(
            f"{path}: is packed in format {quoted(version)}, this version of Sampan reads {_VERSION}: "
            "write it again with `sampan quantize`"
        )
    tensors: dict[str, TensorInfo] = {}
    matrices: dict[str, PackedMatrix] = {}
    for entry in container.entries:
        found = {entry.name: typed(path, entry)} if entry.dtype != "U8" else {}
        if entry.dtype == "U8":
            matrix = _matrix(path, entry, container.metadata.get(entry.name))
            matrices |= dict.fromkeys(matrix.parts, matrix)
            found = {name: _part(path, entry, matrix, name) for name in matrix.parts}
        if twice := tensors.keys() & found.keys():
            raise WeightsError(f"{path}: tensor {quoted(min(twice))} is there twice")
        tensors |= found
    return Packed(container.file, tensors, matrices)


def _matrix(path: Path, entry: Entry, text: str | None) -> PackedMatrix:
    """The matrix of a U8 tensor, once what is said of it agrees with itself and with the tensor."""
    where = f"{path}: __metadata__ of tensor {quoted(entry.name)}"
    values = parse_json((text or "").encode("utf-8", "replace"))
    if values is None:
        raise WeightsError(f"{where} is no JSON object")
    fields = Fields(values, where)
    source = fields.text("source")
    if source not in TensorType.__members__:
        raise fields.fail("source", f"is {quoted(source)}, which is no known type")
    matrix = PackedMatrix(
        parts=_parts(fields),
        n=fields.integer("n", high=_MAX_SIZE),
        k=fields.integer("k", high=_MAX_SIZE),
        store=fields.integer("store", low=0, high=255),
        group=fields.integer("group", high=_MAX_SIZE),
        wide=fields.flag("wide"),
        has_min=fields.flag("has_min"),
        zero=fields.integer("zero", low=0, high=255),
        bytes=fields.integer("bytes", high=2**62),
        source=TensorType[source],
        inputs=fields.integer("inputs", fields.integer("k", high=_MAX_SIZE), high=_MAX_SIZE),
    )
    if entry.shape != (matrix.stored,):
        problem = f"has shape {list(entry.shape)}, but {matrix.bytes} bytes are stored as {matrix.stored}"
        raise damaged(path, f"tensor {quoted(entry.name)}", entry.offset, problem)
    return matrix


def _parts(fields: Fields) -> dict[str, int]:
    section = fields.section("parts")
    parts = {name: section.integer(name, high=_MAX_SIZE) for name in section.values}
    if not parts:
        raise fields.fail("parts", "names no tensor")
    return parts


def _part(path: Path, entry: Entry, matrix: PackedMatrix, name: str) -> TensorInfo:
    """A part's shape; its bytes are those of the whole matrix."""
    return TensorInfo(
        name, (matrix.parts[name], matrix.inputs), matrix.source, path, entry.offset, matrix.bytes
    )
