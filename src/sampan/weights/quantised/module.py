"""What the methods share: a module's tensors as the file has them, and the options that are obeyed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel, WeightsError, quoted
from sampan.kernels.formats import Form, TensorType, dequantise
from sampan.models.fields import Fields
from sampan.weights.files import Decoder, Floats, MappedFile, damaged
from sampan.weights.safetensors import TYPES, Entry

_INTEGERS = {"U8": "u1", "I8": "i1", "I32": "<i4", "I64": "<i8", "F8_E4M3": "u1", "F8_E8M0": "u1"}
SCALES = ("F32", "BF16", "F16")


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor as it lies in its file."""

    file: MappedFile
    entry: Entry

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the header."""
        return self.entry.shape

    def bits(self) -> NDArray[Any]:
        """Integers, or the bits of floats of 8 bits, read-only and not copied."""
        raw = self.file.view(self.entry.offset, self.entry.nbytes)
        return raw.view(_INTEGERS[self.entry.dtype]).reshape(self.shape)

    def floats(self) -> Floats:
        """All values as a new float32 array; F8_E8M0 are powers of two (OCP MX, 5.4.1), 255 none."""
        if self.entry.dtype in _INTEGERS:
            exponents = self.bits().astype(np.int32)
            powers = np.ldexp(np.float32(1), exponents - 127, dtype=np.float32)
            return np.where(exponents == 255, np.float32(np.nan), powers)
        raw = self.file.view(self.entry.offset, self.entry.nbytes)
        return dequantise(raw, TYPES[self.entry.dtype], self.shape)

    def rows(self, start: int, stop: int) -> Floats:
        """Rows of a matrix of floats as a new float32 array."""
        each = self.entry.nbytes // self.shape[0]
        raw = self.file.view(self.entry.offset + start * each, (stop - start) * each)
        return dequantise(raw, TYPES[self.entry.dtype], (stop - start, *self.shape[1:]))

    def columns(self, start: int, stop: int) -> Floats:
        """Columns of a matrix of floats as rows of a new float32 array."""
        type = TYPES[self.entry.dtype]
        raw = self.file.view(self.entry.offset, self.entry.nbytes).view(f"V{type.block_bytes}")
        some = np.ascontiguousarray(raw.reshape(self.shape)[:, start:stop].T)
        return dequantise(some.reshape(-1).view(np.uint8), type, some.shape)

    def fail(self, problem: str) -> WeightsError:
        """The error of this tensor; the caller raises it."""
        return damaged(self.file.path, f"tensor {quoted(self.entry.name)}", self.entry.offset, problem)

    def release(self, first: int = 0, rows: int | None = None) -> None:
        """Give the pages of rows, counted over all axes but the last, back to the system."""
        total = prod(self.shape[:-1])
        each = self.entry.nbytes // max(total, 1)
        self.file.release(self.entry.offset + first * each, (total if rows is None else rows) * each)


@dataclass(frozen=True, eq=False)
class Module:
    """The tensors `name.ENDING`, by their endings; `taken` are those that a method has read."""

    name: str
    tensors: Mapping[str, Stored]
    taken: set[str] = field(default_factory=set)

    def take(self, ending: str, dtypes: Collection[str], shape: Sequence[int] | None = None) -> Stored:
        """A tensor that has to be there, of one of these types and of this shape."""
        if ending not in self.tensors:
            some = next(iter(self.tensors.values()))
            raise WeightsError(
                f"{some.file.path}: tensor {quoted(f'{self.name}.{ending}')} is missing, without which "
                f"{quoted(some.entry.name)} has no values: fetch the whole model"
            )
        self.taken.add(ending)
        found = self.tensors[ending]
        if found.entry.dtype not in dtypes:
            raise UnsupportedModel(
                str(found.fail(f"is {found.entry.dtype}, readable is {', '.join(dtypes)}"))
            )
        if shape is not None and found.shape != tuple(shape):
            raise found.fail(f"has shape {list(found.shape)}, its module asks for {list(shape)}")
        return found

    def matrix(self, ending: str, dtypes: Collection[str]) -> Stored:
        """One that has to be there and to have two axes."""
        found = self.take(ending, dtypes)
        if len(found.shape) != 2 or 0 in found.shape:
            raise found.fail(f"has shape {list(found.shape)}, it must be a matrix")
        return found

    def find(self, ending: str, dtypes: Collection[str], shape: Sequence[int] | None = None) -> Stored | None:
        """The same, where it is there."""
        return self.take(ending, dtypes, shape) if ending in self.tensors else None


@dataclass(frozen=True, eq=False)
class Weight:
    """What a module's weight comes out as: row-major shape, type, form of its codes, and who decodes it."""

    shape: tuple[int, ...]
    type: TensorType
    form: Form | None
    decoder: Decoder
    stored: Stored


class Method(Protocol):
    """One `quant_method`, its options read. `endings`: the tensors whose presence, in one of these types,
    says that a module is quantised; `skipped`: modules that are said not to be."""

    @property
    def endings(self) -> Mapping[str, Collection[str]]: ...
    @property
    def skipped(self) -> frozenset[str]: ...
    def weight(self, module: Module) -> Weight:
        """The weight of a quantised module."""


def obeyed(fields: Fields, known: Collection[str]) -> None:
    """`UnsupportedModel` for an option that says something and is not among the known ones."""
    unknown = sorted(name for name in fields.values if name in fields and name not in known)
    if unknown:
        raise UnsupportedModel(f"{fields.source}: option {quoted(unknown[0])} is not supported")


def chosen(fields: Fields, name: str, among: Sequence[Any], default: Any = None) -> Any:
    """An option's value; `UnsupportedModel` where it is not among these."""
    value = fields.values.get(name)
    value = default if value is None else value
    if not any(value == one and type(value) is type(one) for one in among):
        listed = ", ".join("none" if one is None else str(one) for one in among)
        raise UnsupportedModel(f"{fields.source}: {name} {quoted(value)} is not supported: {listed} is")
    return value


def named(fields: Fields, name: str) -> frozenset[str]:
    """A list of modules' names."""
    value = fields.values.get(name) or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise fields.fail(name, "must be a list of names")
    return frozenset(value)
