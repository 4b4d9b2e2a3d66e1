"""How weights lie for the kernels: which parts of a linear share a packed matrix, and what that takes.

Known before anything is read: a plan is made from it, and its bytes are what loading takes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from sampan.core.errors import UnsupportedModel, WeightsError, shortened
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.machine import BLOCK, LANES, Operand, blocked, padded
from sampan.kernels.experts import ExpertRoom
from sampan.kernels.formats import Form, TensorType
from sampan.kernels.ops import Linear, PerHead, Weight
from sampan.kernels.tensors import Tensors

STORES = {4: 0, 6: 1, 8: 2}  # of kernels.h, by bits
_TASK = 2**18  # weights that a thread reads and packs at a time
_FLOATS = (TensorType.BF16, TensorType.F16, TensorType.F32)
U8, BF16, E4M3 = 2, 4, 6  # stores of kernels.h: the last of the integers, and those for rows of bf16


@dataclass(frozen=True)
class Segment:
    """Neighbouring parts of a linear in one matrix [n, k]: its outputs from feature `offset` on, its inputs
    in whole blocks.

    `operand`: the rows that it reads; `fine`: where they are INT8, all of them keep 16 bits. `nbytes`:
    packed.
    """

    parts: tuple[Weight, ...]
    offset: int
    n: int
    k: int
    operand: Operand
    fine: bool
    nbytes: int


class Layout:
    """The segments of every linear of one checkpoint. `experts`: they stay on disk, but for so much."""

    def __init__(self, tensors: Tensors, experts: ExpertRoom | None = None) -> None:
        self.tensors = tensors
        self.experts = experts
        self._found: dict[tuple[Weight, ...], list[Segment]] = {}

    def segments(self, weight: Linear) -> Sequence[Segment]:
        """Parts start at padded offsets, one after another; neighbours of one type share a matrix."""
        if weight.parts not in self._found:
            self._found[weight.parts] = self._segments(weight.parts)
        return self._found[weight.parts]

    def _segments(self, parts: tuple[Weight, ...]) -> list[Segment]:
        segments: list[Segment] = []
        offset = 0
        fine = any(part.fine for part in parts)
        for _, run in groupby(parts, key=self._kind):
            some = tuple(run)
            n, k = stacked([part.shape[0] for part in some]), blocked(some[0].shape[1])
            store, nbytes = self._size(some, n, k)
            operand = operand_of(store)
            segments.append(Segment(some, offset, n, k, operand, fine and operand is Operand.INT8, nbytes))
            offset += padded(n)
        return segments

    def _kind(self, part: Weight) -> object:
        packed = self.tensors.packed.get(part.name)
        return tuple(packed.parts) if packed else kind_of(self.tensors, part)

    def _size(self, parts: tuple[Weight, ...], n: int, k: int) -> tuple[int, int]:
        packed = self.tensors.packed.get(parts[0].name)
        if packed is None:
            store, panel = panel_of(self.tensors, parts[0])
            return store, padded(n) // LANES * panel
        names = [part.name for part in parts]
        if names != list(packed.parts):
            held, read = shortened(", ".join(packed.parts)), ", ".join(names)
            raise WeightsError(
                f"{self.tensors.where}: a packed matrix holds {held} together, the model reads {read}: "
                "write it again with `sampan quantize`"
            )
        if (packed.n, packed.k) != (n, k):
            raise WeightsError(
                f"{self.tensors.where}: packed matrix {names[0]!r} is {packed.n} x {packed.k}, "
                f"its parts are {n} x {k}: the file is damaged"
            )
        return packed.store, packed.bytes


def kind_of(tensors: Tensors, part: Weight) -> tuple[TensorType, Form | None]:
    """What neighbouring parts of one matrix have in common."""
    if part.exact:
        return TensorType.F32, None
    info = tensors.info(part.name)
    if part.transposed and not info.turned:  # blocks along the file's rows are none along ours
        if info.form is not None and info.form.across is not None:
            return info.type, _e4m3(info.form.across)
        return (info.type if info.type in _FLOATS else TensorType.F32), None
    return info.type, _e4m3(info.form) if info.form is not None and info.form.rows else info.form


def _e4m3(form: Form) -> Form:
    """What a matrix knows of the rows that share a scale: whether a panel's do."""
    return replace(form, rows=1 if form.wide else LANES)


def panel_of(tensors: Tensors, part: Weight) -> tuple[int, int]:
    """The store that keeps a tensor's type without loss, and bytes of one panel of its inputs."""
    type, form = kind_of(tensors, part)
    if form is not None:
        if part.shape[1] % BLOCK and not form.rows:  # no code need stand for zero
            problem = f"{part.shape[1]} inputs of quantised weights are not a multiple of {BLOCK}"
            raise UnsupportedModel(f"{tensors.where}: tensor {part.name!r}: {problem}")
        return store_of(form), _panel_of_codes(form, blocked(part.shape[1]))
    try:
        store, nbytes = _native.panel_of(blocked(part.shape[1]), type.number)
    except ValueError as e:
        raise UnsupportedModel(f"{tensors.where}: tensor {part.name!r}: {e}") from e
    return int(store), int(nbytes)


def _panel_of_codes(form: Form, inputs: int) -> int:
    """`panel_bytes` of kernels.h."""
    if form.rows:
        scales = -(-inputs // form.group) * (LANES if form.wide else 1)
        return padded(scales) * 4 + inputs * LANES
    scales = (2 if form.has_min else 1) * (4 if form.wide else 2) * (inputs // form.group)
    return LANES * (inputs * form.bits // 8 + scales)


def store_of(form: Form) -> int:
    """The store that keeps codes of a form."""
    return E4M3 if form.rows else STORES[form.bits]


def turned(part: Weight, weight: PerHead) -> Weight:
    """A head's matrix as products read it."""
    return replace(part, shape=part.shape[::-1], transposed=True) if weight.transposed else part


def some_rows(parts: Sequence[Weight]) -> Iterator[tuple[Weight, int, int, int]]:
    """Part, its first row in the matrix, and its rows [start, stop): whole panels, about `_TASK` weights."""
    first = 0
    for part in parts:
        rows, inputs = part.shape
        step = padded(max(_TASK // inputs, LANES))
        for start in range(0, rows, step):
            yield part, first, start, min(start + step, rows)
        first += padded(rows)


def operand_of(store: int) -> Operand:
    """The rows that a matrix is multiplied with."""
    if store <= U8:
        return Operand.INT8
    return Operand.BF16 if store in (BF16, E4M3) else Operand.F32


def stacked(rows: Sequence[int]) -> int:
    """Rows of a matrix whose parts have these: every part starts at a whole panel, the last is not padded."""
    return sum(map(padded, rows[:-1])) + rows[-1]
