"""Brings weights to the kernels: packed once, at the file's own precision, or mapped as they lie.

Each tensor's pages are given back to the system as soon as it is packed, so that loading never holds the file
twice. A folder of packed weights is used where it lies, with no work and no copy.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.layout import Layout, Segment, kind_of, some_rows, stacked, store_of
from sampan.kernels.cpu.machine import BLOCK, Machine, blocked, out_of_memory, padded, widened
from sampan.kernels.cpu.plan import whole
from sampan.kernels.cpu.stored import ExpertStore, StoredMatrix
from sampan.kernels.experts import ExpertRoom
from sampan.kernels.formats import Codes, Form, TensorType
from sampan.kernels.ops import Weight
from sampan.kernels.tensors import Floats, Tensors

_STRIDE = 2**23  # bytes of a file that are packed before they are given back


@dataclass(frozen=True)
class Place:
    """Where a weight is kept: rows of a packed matrix from `first` on, or vectors that hold copies of it,
    `offset` larger."""

    matrix: Any = None
    first: int = 0
    vectors: tuple[Floats, ...] = ()
    offset: float = 0.0


class PackedWeights:
    """A checkpoint's weights for programs; packs at the first request.

    `size`: bytes that the packed weights take, where that is known. `experts`: they stay on disk, but for so
    much; `store` reads them, once a plan has said which there are.
    """

    def __init__(
        self, tensors: Tensors, machine: Machine, size: int | None = None, experts: ExpertRoom | None = None
    ) -> None:
        self.tensors = tensors
        self.machine = machine
        self.layout = Layout(tensors, experts)
        self.store: ExpertStore | None = None
        self._arena = _native.Arena(size) if size else _native.Arena()
        self._matrices: dict[str, Any] = {}
        self._vectors: dict[str, Floats] = {}
        self._places: dict[str, tuple[Any, int]] = {}

    def matrix(self, segment: Segment) -> Any:
        """The packed matrix of a segment."""
        name = segment.parts[0].name
        if name not in self._matrices:
            packed = name in self.tensors.packed
            matrix = self._mapped(name) if packed else self._packed(segment)
            self._matrices[name] = matrix
            first = 0
            for part in segment.parts:
                self._places[part.name] = matrix, first
                first += padded(part.shape[0])
        return self._matrices[name]

    def described(self, matrix: StoredMatrix) -> tuple[int | bool, ...]:
        """A matrix that every expert of a layer has, as the native program takes it."""
        name = matrix.segment.parts[0].name
        m = self.tensors.packed.get(name) or allocate(self.tensors, matrix.segment.parts)
        return matrix.layer, matrix.offset, m.n, m.k, m.store, m.group, m.wide, m.has_min, m.zero

    def vector(self, weight: Weight) -> Floats:
        """What is no matrix of products, as float32; a matrix column after column."""
        if weight.name not in self._vectors:
            values = self.tensors.array(weight.name)
            if weight.offset:
                values += np.float32(weight.offset)
            kept = np.zeros(whole(weight), np.float32, order="F")
            kept[: len(values)] = values
            self._vectors[weight.name] = kept
        return self._vectors[weight.name].reshape(-1, order="F")

    def place(self, weight: Weight) -> Place:
        """Where a weight that was asked for is kept."""
        if weight.name in self._vectors:
            return Place(vectors=(self._vectors[weight.name][: weight.shape[0]],), offset=weight.offset)
        return Place(*self._places[weight.name])

    def _packed(self, segment: Segment) -> Any:
        return pack(self.tensors, segment.parts, self.machine, self._arena)

    def _mapped(self, name: str) -> Any:
        m = self.tensors.packed[name]
        try:
            data = self.tensors.panels(name)
            return _native.Packed(m.n, m.k, m.store, m.group, m.wide, m.has_min, m.zero, data)
        except ValueError as e:
            raise WeightsError(f"{self.tensors.where}: tensor {name!r}: {e}: the file is damaged") from e


def allocate(tensors: Tensors, parts: Sequence[Weight], arena: Any = None) -> Any:
    """An empty matrix for neighbouring parts of one type; its memory is taken as it is filled.

    `arena`: matrices of one native arena share its chunks of memory, and free them together.
    """
    source, form = kind_of(tensors, parts[0])
    rows, inputs = stacked([part.shape[0] for part in parts]), blocked(parts[0].shape[1])
    try:
        if form is not None:
            return _native.Packed(
                rows, inputs, store_of(form), form.group, form.wide, form.has_min, form.zero, None, arena
            )
        return _native.Packed.of(rows, inputs, source.number, arena)
    except MemoryError as e:
        raise out_of_memory(f"the weights of {parts[0].name}") from e
    except ValueError as e:
        raise UnsupportedModel(f"{tensors.where}: tensor {parts[0].name!r}: {e}") from e


def pack(tensors: Tensors, parts: Sequence[Weight], machine: Machine, arena: Any = None) -> Any:
    """Neighbouring parts of one type in one matrix, without loss."""
    matrix = allocate(tensors, parts, arena)
    source, form = kind_of(tensors, parts[0])
    if form is not None:
        _fill_codes(tensors, parts, form, machine, matrix)
        return matrix
    first = 0
    for part in parts:
        if part.exact or (part.transposed and not tensors.info(part.name).turned):
            raw = _in_blocks(_whole(tensors, part, source), part, part.shape[0])
            matrix.fill(machine.pool, raw, source.number, first, part.shape[0], None)
            tensors.release(part.name)
            first += padded(part.shape[0])
            continue
        order = tensors.row_order(part.name)
        rows = part.shape[0]
        rows_of_part = None if order is None else np.ascontiguousarray(order, np.int32)
        # Rows in another order lie anywhere in the tensor.
        step = padded(_STRIDE // source.nbytes(part.shape[1:]) + 1) if order is None else rows
        for at in range(0, rows, step):
            stop = min(at + step, rows)
            some = _in_blocks(tensors.raw(part.name, at, stop), part, stop - at)
            matrix.fill(machine.pool, some, source.number, first + at, stop - at, rows_of_part)
            tensors.release(part.name, at, stop)
        first += padded(rows)
    return matrix


def _in_blocks(raw: NDArray[np.uint8], part: Weight, rows: int) -> NDArray[np.uint8]:
    """Bytes of rows, with zeros behind inputs that are no whole blocks: only floats are not."""
    inputs = part.shape[1]
    if inputs % BLOCK == 0:
        return raw
    each = raw.size // rows
    return widened(raw.reshape(rows, each), each // inputs * blocked(inputs)).reshape(-1)


def _whole(tensors: Tensors, part: Weight, source: TensorType) -> NDArray[np.uint8]:
    """The bytes of a tensor that is not packed as it lies in the file."""
    if part.transposed and tensors.info(part.name).type is source and source is not TensorType.F32:
        values: Any = tensors.raw(part.name).view(np.uint16).reshape(part.shape[::-1])
    else:
        values = tensors.array(part.name)
    turned = np.ascontiguousarray(values.T if part.transposed else values)
    return turned.view(np.uint8).reshape(-1)


def _fill_codes(tensors: Tensors, parts: Sequence[Weight], form: Form, machine: Machine, matrix: Any) -> None:
    def task(work: tuple[Weight, int, int, int]) -> None:
        part, first, start, stop = work
        codes = _codes(tensors, part, start, stop)
        scale, minimum = (_kept(values, form) for values in (codes.scale, codes.minimum))
        q = np.ascontiguousarray(widened(codes.q, matrix.k))  # E4M3's zero
        matrix.fill_codes(machine.pool, q, scale, minimum, first + start)

    with ThreadPoolExecutor(machine.threads) as threads:
        for _ in threads.map(task, list(some_rows(parts))):
            pass  # raises what a task raised; what has not begun by then is cancelled
    for part in parts:
        tensors.release(part.name)


def _codes(tensors: Tensors, part: Weight, start: int, stop: int) -> Codes:
    """Rows [start, stop) of a matrix as products read it."""
    info = tensors.info(part.name)
    if not part.transposed or info.turned:
        return tensors.codes(part.name, start, stop)
    assert info.form is not None
    codes = tensors.codes(part.name, 0, info.shape[0])
    places = np.arange(start, stop) // info.form.group
    return replace(codes, q=codes.q.T[start:stop], scale=codes.scale[:: info.form.rows, places].T)


def _kept(values: Floats | None, form: Form) -> Any:
    """Scales or minima as the matrix has them."""
    if values is None:
        return None
    return np.ascontiguousarray(
        values if form.wide or form.rows else values.astype(np.float16).view(np.uint16)
    )
