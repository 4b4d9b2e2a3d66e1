"""Writes a GGUF file, version 3 (ggml docs/gguf.md): the way back from `weights/gguf.py`.

Whole numbers are written as uint32 where they fit, as llama.cpp reads every key that it knows, and numbers
with a point as float32; an `array.array` keeps its type.
"""

import struct
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from sampan.kernels.formats import TensorType

_ALIGNMENT = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _U64, _I64 = 4, 5, 6, 7, 8, 9, 10, 11
_CODES = {"B": 0, "b": 1, "H": 2, "h": 3, "I": _U32, "i": _I32, "f": _F32, "Q": _U64, "q": _I64, "d": 12}
_SCALARS = {_U32: "<I", _I32: "<i", _F32: "<f", _BOOL: "<?", _U64: "<Q", _I64: "<q"}


@dataclass(frozen=True)
class Written:
    """A tensor of a file, of this kind or another: its name there, its row-major shape, and how its bytes
    come."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: Callable[[], Iterable[bytes]]

    @property
    def nbytes(self) -> int:
        """In the file, without what aligns the next one."""
        return self.type.nbytes(self.shape)


def size_of(tensors: Sequence[Written]) -> int:
    """Bytes of the data."""
    return sum(tensor.nbytes + -tensor.nbytes % _ALIGNMENT for tensor in tensors)


def write_gguf(
    file: BinaryIO, metadata: Mapping[str, object], tensors: Sequence[Written], advance: Callable[[int], None]
) -> None:
    """All of a file; `advance` is told the bytes of each tensor."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_string(key) + _value(value) for key, value in metadata.items())
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        head += _string(tensor.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        head += struct.pack("<IQ", tensor.type.number, offset)
        offset += tensor.nbytes + -tensor.nbytes % _ALIGNMENT
    file.write(head + bytes(-len(head) % _ALIGNMENT))
    for tensor in tensors:
        written = sum(file.write(block) for block in tensor.data())
        assert written == tensor.nbytes, f"{tensor.name}: {written} bytes instead of {tensor.nbytes}"
        file.write(bytes(-written % _ALIGNMENT))
        advance(written)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: object) -> bytes:
    """A type number and the value."""
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, array):
        return struct.pack("<IIQ", _ARRAY, _CODES[value.typecode], len(value)) + value.tobytes()
    if isinstance(value, list | tuple):
        kind = _kind(value[0]) if value else _STRING
        body = b"".join(_value(each)[4:] for each in value)
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + body
    assert isinstance(value, bool | int | float), f"{type(value).__name__} has no form in GGUF"
    return struct.pack("<I", _kind(value)) + struct.pack(_SCALARS[_kind(value)], value)


def _kind(value: object) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        wide = _U64 if value >= 0 else _I64
        return (_U32 if value >= 0 else _I32) if -(2**31) <= value < 2**32 else wide
    kinds = {float: _F32, str: _STRING, array: _ARRAY, list: _ARRAY}
    return kinds[type(value)]
