"""What a model takes, added up before it is loaded.

The model's forward is recorded as it is for loading, with matrices that have a size and no content, so the
sums are those of the native program itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sampan.engine.budget import Footprint
from sampan.kernels import _native  # type: ignore[attr-defined]
from sampan.kernels.adapted import AdaptedRecorder, AdapterRoom
from sampan.kernels.formats import TensorType
from sampan.kernels.native import PAGE, Machine, Operand, padded
from sampan.kernels.ops import Weight
from sampan.kernels.program import Floats, Recorder, symbolic_batch
from sampan.models.registry import describe
from sampan.weights.checkpoint import Checkpoint
from sampan.weights.load import PackedWeights, allocate
from sampan.weights.packed import stacked

_BLOCK = 32  # inputs that share a scale


def measure(
    checkpoint: Checkpoint, name: str, machine: Machine, max_rows: int, room: AdapterRoom | None = None
) -> Footprint:
    """What the checkpoint's model takes with these threads and rows a step, and with adapters of float32 that
    fill their room."""
    c = checkpoint.config
    weights = _Sizes(checkpoint, machine)
    meter = _Meter(max_rows, machine.threads, c.head_dim)
    recorder = AdaptedRecorder(meter, weights, room) if room else Recorder(meter, weights)
    describe(c).forward(recorder, symbolic_batch())
    kinds = {info.type for info in checkpoint.tensors.values() if len(info.shape) == 2}
    element = {"bf16": 2 * c.head_dim, "f32": 4 * c.head_dim, "int8": c.head_dim + 4}
    each = 2 * PAGE * c.layers * c.kv_heads
    return Footprint(
        name=name,
        config=c,
        weights=weights.bytes,
        workspace=meter.bytes,
        adapters=meter.adapter_bytes,
        logits=4 * padded(c.vocab),
        page={dtype: each * size for dtype, size in element.items()},
        dtype="f32" if kinds == {TensorType.F32} else "bf16",
    )


@dataclass(frozen=True)
class _Shape:
    """A packed matrix without content."""

    n: int
    k: int
    store: int


class _Sizes(PackedWeights):
    """Weights that have sizes only; `bytes` counts those that were asked for."""

    def __init__(self, checkpoint: Checkpoint, machine: Machine) -> None:
        super().__init__(checkpoint, machine)
        self.bytes = 0
        self._panels: dict[tuple[int, int], tuple[int, int]] = {}
        self._zeros: dict[str, Floats] = {}

    def matrix(self, parts: list[Weight]) -> _Shape:
        """Counts the panels of neighbouring parts."""
        packed = self.checkpoint.packed.get(parts[0].name)
        if packed is not None:
            self.bytes += packed.bytes
            return _Shape(packed.n, packed.k, packed.store)
        n, k = stacked([part.shape[0] for part in parts]), parts[0].shape[1]
        store, panel = self._panel(parts[0])
        self.bytes += padded(n) // padded(1) * panel
        return _Shape(n, k, store)

    def vector(self, weight: Weight) -> Floats:
        """Zeros; counted once."""
        if weight.name not in self._zeros:
            self._zeros[weight.name] = np.zeros(weight.shape, np.float32)
            self.bytes += self._zeros[weight.name].nbytes
        return self._zeros[weight.name]

    def _panel(self, part: Weight) -> tuple[int, int]:
        """Store and bytes of one panel; its memory is never touched, so none is taken."""
        key = part.shape[1], self.checkpoint.tensors[part.name].type.number
        if key not in self._panels:
            panel = allocate(self.checkpoint, [replace(part, shape=(padded(1), key[0]))], self._arena)
            self._panels[key] = panel.store, panel.data.nbytes
        return self._panels[key]


class _Meter:
    """Stands where the native program does and adds up what it would allocate (`program.cpp`)."""

    def __init__(self, rows: int, threads: int, head_dim: int) -> None:
        self._rows, self._threads, self._head_dim = rows, threads, head_dim
        self._taken = self._count = self._max_k = 0
        self._inputs: dict[int, int] = {}
        self._room, self._rank, self._parts = 0, 0, 0
        self.adapter_bytes = 0
        """Of all adapters' matrices."""

    @property
    def bytes(self) -> int:
        """Of buffers, activations, cosines and sines, and the threads' scratch."""
        scratch = int(_native.scratch_bytes(self._max_k, self._head_dim))
        inner = 4 * self._parts * self._rows * self._rank
        return self._taken + inner + self._rows * self._head_dim * 4 + self._threads * scratch

    def buffer(self, width: int) -> int:
        """[rows, width] floats."""
        return self._take(4 * self._rows * width)

    def activations(self, k: int, operand: Operand) -> int:
        """[rows, k] floats or bf16, or blocks of four rows with their low planes."""
        quads = -(-self._rows // 4)
        blocks = quads * (k // _BLOCK) * _native.QUAD_BLOCK_BYTES
        sizes = {Operand.F32: 4 * self._rows * k, Operand.BF16: 2 * self._rows * k, Operand.INT8: blocks}
        act = self._take(sizes[operand])
        self._inputs[act] = k
        return act

    def logits(self, width: int) -> int:  # noqa: ARG002
        """Counted by the row (`Footprint.logits`)."""
        return self._take(0)

    def linear(self, matrix: _Shape, *_: object) -> None:
        """The threads' scratch is as long as the longest row of weights."""
        self._max_k = max(self._max_k, matrix.k)

    gated = linear

    def adapters(self, count: int, rank: int) -> None:
        """Their ranks take whole panels."""
        self._room, self._rank = count, padded(rank)

    def adapt(self, outputs: list[int], act: int, *_: object) -> None:
        """A and B of each part, and A x of each row."""
        self._parts = max(self._parts, len(outputs))
        each = sum(self._inputs[act] + padded(n) for n in outputs)
        self.adapter_bytes += 4 * self._room * self._rank * each

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None  # other instructions allocate nothing

    def _take(self, nbytes: int) -> int:
        self._taken += nbytes
        self._count += 1
        return self._count - 1
