"""The safetensors container (huggingface/safetensors, "Format"), one file or shards with an index.

Own reader, because loading needs the mapped bytes as they lie in the file: the `safetensors` package gives
numpy no bfloat16 at all and copies every other tensor it hands out. Before a header is believed all of it is
checked: lengths, JSON, dtypes, shapes against byte ranges, and that the ranges cover the data without hole or
overlap. Damage is a `WeightsError` naming file, field and byte offset; any dtype but BF16, F16 and F32 is an
`UnsupportedModel`, unless a configuration explains quantised weights (`weights/quantised`). Packed files,
which hold U8 too, are for `weights/packed.py`; here they are refused.

Nothing is told of a file that is of another kind, for a service repeats these errors to its clients: until a
header was read as one, an error says that it is none, and no bytes, sizes, names or places in it.
"""

import json
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from sampan.core.errors import UnsupportedModel, WeightsError, quoted
from sampan.kernels.formats import TensorType
from sampan.weights.files import MappedFile, TensorInfo, damaged, files_in, is_there, open_regular, reading

_MAX_JSON = 32 * 2**20  # bytes of a header or an index: room for 300,000 tensors
_MAX_DIMS = 8
TYPES = {"BF16": TensorType.BF16, "F16": TensorType.F16, "F32": TensorType.F32}
_QUANTISED = {"U8": 1, "I8": 1, "I32": 4, "I64": 8, "F8_E4M3": 1, "F8_E8M0": 1}
_ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4} | _QUANTISED
PACKED = "sampan"  # the `format` in the `__metadata__` of a packed file
_INDEX = "model.safetensors.index.json"
_FIELDS = {"dtype", "shape", "data_offsets"}


class Entry(NamedTuple):
    """A line of the header; `offset` is the tensor's first byte in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class Container:
    """One file as it lies: its entries in the order of their data, and the texts of its `__metadata__`."""

    file: MappedFile
    metadata: Mapping[str, str]
    entries: tuple[Entry, ...]

    @property
    def packed(self) -> bool:
        """Whether it holds matrices as the kernels read them."""
        return self.metadata.get("format") == PACKED


@dataclass(frozen=True, eq=False)
class Safetensors:
    """One file: its entries and those that have values of their own, in the order of their data."""

    file: MappedFile
    entries: tuple[Entry, ...]
    tensors: dict[str, TensorInfo]


def read_container(path: Path, quantised: bool = False) -> Container:
    """Map a file and read its header; the tensors' data is not touched. `quantised`: parts of quantised
    weights may be in it."""
    with ExitStack() as undo:
        file = MappedFile(path)
        undo.callback(file.close)
        header, start = _header(file)
        texts = header.pop("__metadata__", None)
        if not all(isinstance(fields, dict) and fields.keys() == _FIELDS for fields in header.values()):
            raise _no_safetensors(file)
        given = texts.items() if isinstance(texts, dict) else ()
        metadata = {name: text for name, text in given if isinstance(text, str)}
        readable = _readable(metadata, quantised)
        entries = [_entry(file, start, name, fields, readable) for name, fields in header.items()]
        container = Container(file, metadata, _in_order(file, entries, start))
        undo.pop_all()
        return container


def read_safetensors(path: Path, quantised: bool = False) -> Safetensors:
    """The tensors of a file, every one of a type that has values unless it may hold `quantised` ones."""
    container = read_container(path, quantised)
    if container.packed:
        container.file.close()
        raise UnsupportedModel(
            f"{path}: holds weights packed by `sampan quantize`, no plain tensors: take the original model"
        )
    tensors = {entry.name: typed(path, entry) for entry in container.entries if entry.dtype in TYPES}
    return Safetensors(container.file, container.entries, tensors)


def typed(path: Path, entry: Entry) -> TensorInfo:
    """An entry of the file at `path`, which is not U8, as a tensor that has values."""
    return TensorInfo(entry.name, entry.shape, TYPES[entry.dtype], path, entry.offset, entry.nbytes)


def read_safetensors_folder(folder: Path, quantised: bool = False) -> list[Safetensors]:
    """The `model.safetensors` of a folder, or all shards of its index, or its only `*.safetensors` file."""
    if is_there(folder / "model.safetensors"):
        if is_there(folder / _INDEX):
            warnings.warn(f"{folder}: passed over {_INDEX}: model.safetensors is there", stacklevel=2)
        return [read_safetensors(folder / "model.safetensors", quantised)]
    if is_there(folder / _INDEX):
        return _read_shards(folder, quantised)
    found = files_in(folder, ".safetensors")
    if len(found) != 1:
        raise WeightsError(
            f"{folder}: holds {len(found)} *.safetensors files and neither model.safetensors nor {_INDEX}"
        )
    return [read_safetensors(found[0], quantised)]


def read_json(path: Path) -> dict[str, object]:
    """A file that holds one JSON object."""
    with open_regular(path) as file, reading(path):
        small = os.fstat(file.fileno()).st_size <= _MAX_JSON
        found = parse_json(file.read() or b"") if small else None  # some files of the system say nothing
    if found is None:
        raise WeightsError(f"{path}: is not a JSON object as configurations are")
    return found


def parse_json(text: bytes) -> dict[str, object] | None:
    """One JSON object (RFC 8259) without a key that stands twice; None for anything else."""

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(items)
        if len(fields) != len(items):
            raise ValueError("a key appears twice")
        return fields

    try:
        parsed = json.loads(text.decode(), object_pairs_hook=pairs, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _readable(metadata: Mapping[str, str], quantised: bool) -> tuple[str, ...]:
    """The dtypes that a file may hold."""
    if metadata.get("format") == PACKED:
        return (*TYPES, "U8")
    return tuple(_ITEM_BYTES) if quantised else tuple(TYPES)


def _in_order(file: MappedFile, entries: list[Entry], start: int) -> tuple[Entry, ...]:
    """Entries by their data, once it is certain that together they cover all of it from byte `start`."""
    entries.sort(key=lambda entry: (entry.offset, entry.nbytes))
    end = start
    for entry in entries:
        if entry.offset != end:
            field = f"tensor {quoted(entry.name)} data_offsets"
            problem = f"leave a hole or overlap: the data before ends at {end}"
            raise damaged(file.path, field, entry.offset, problem)
        end += entry.nbytes
    if end != file.size:
        problem = f"ends, but the file has {file.size} bytes: it is cut short or damaged"
        raise damaged(file.path, "data", end, problem)
    return tuple(entries)


def _header(file: MappedFile) -> tuple[dict[str, object], int]:
    """The header's JSON and the byte at which the data starts."""
    length = int.from_bytes(file.data[:8], "little")
    if file.size < 8 or length > min(_MAX_JSON, file.size - 8):
        raise _no_safetensors(file)
    header = parse_json(file.data[8 : 8 + length])
    if header is None:
        raise _no_safetensors(file)
    return header, 8 + length


def _no_safetensors(file: MappedFile) -> WeightsError:
    return WeightsError(f"{file.path}: is no safetensors file, or its header is damaged or cut short")


def _entry(file: MappedFile, start: int, name: str, fields: Any, readable: tuple[str, ...]) -> Entry:
    field = f"tensor {quoted(name)}"
    shape, offsets = _sizes(fields["shape"]), _sizes(fields["data_offsets"])
    if shape is None or offsets is None or len(offsets) != 2:
        raise damaged(
            file.path, field, 8, "must have a shape and two data_offsets of whole numbers below 2^63"
        )
    dtype = fields["dtype"]
    if not isinstance(dtype, str) or dtype not in readable:
        raise UnsupportedModel(
            f"{file.path}: {field} has dtype {quoted(dtype)}: readable are {', '.join(readable)}"
        )
    begin, end = offsets
    nbytes = prod(shape) * _ITEM_BYTES[dtype]
    if end - begin != nbytes:
        problem = f"span {end - begin} bytes, but {dtype} of shape {list(shape)} has {nbytes}"
        raise damaged(file.path, f"{field} data_offsets", start + begin, problem)
    return Entry(name, dtype, shape, start + begin, nbytes)


def _sizes(values: object) -> tuple[int, ...] | None:
    """A short list of whole numbers of at most 63 bits, or None."""
    if not isinstance(values, list) or len(values) > _MAX_DIMS:
        return None
    if any(type(value) is not int or not 0 <= value < 2**63 for value in values):
        return None
    return tuple(values)


def _read_shards(folder: Path, quantised: bool) -> list[Safetensors]:
    index = folder / _INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index}: weight_map must name the shard of each tensor")
    with ExitStack() as undo:
        shards = []
        for name in sorted({_shard_name(index, value) for value in weight_map.values()}):
            if not is_there(folder / name):
                raise WeightsError(f"{folder / name}: this shard of {_INDEX} is missing: fetch it too")
            shards.append(read_safetensors(folder / name, quantised))
            undo.callback(shards[-1].file.close)
        _check_index(index, weight_map, shards)
        undo.pop_all()
        return shards


def _shard_name(index: Path, value: object) -> str:
    """A file name beside the index: anything that could lead elsewhere is refused."""
    plain = isinstance(value, str) and value.isprintable() and len(value) <= 100 and Path(value).name == value
    if not isinstance(value, str) or not plain or not value.endswith(".safetensors"):
        raise WeightsError(f"{index}: weight_map names a shard that is no *.safetensors file beside it")
    return value


def _check_index(index: Path, weight_map: Mapping[str, object], shards: list[Safetensors]) -> None:
    """No tensor lies in two shards; where the index says something else than the shards, these count. What is
    missing is found missing when the model's tensors are looked for."""
    found: dict[str, str] = {}
    for shard in shards:
        names = [entry.name for entry in shard.entries]
        if twice := found.keys() & set(names):
            raise WeightsError(
                f"{shard.file.path}: tensor {quoted(min(twice))} is also in {found[min(twice)]}"
            )
        found |= dict.fromkeys(names, shard.file.path.name)
    wrong = sorted(
        name for name in weight_map.keys() | found.keys() if weight_map.get(name) != found.get(name)
    )
    if wrong:
        name, rest = wrong[0], f", and so for {len(wrong) - 1} more" if len(wrong) > 1 else ""
        warnings.warn(
            f"{index}: passed over what it says of tensor {quoted(name)}: it is in "
            f"{quoted(found.get(name))} and not in {quoted(weight_map.get(name))}{rest}",
            stacklevel=2,
        )
