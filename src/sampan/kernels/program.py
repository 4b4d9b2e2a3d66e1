"""Records a model's forward, once, into the program that the native core executes in one entry per step.

The recorder is an `Ops` backend whose values are promises. A norm or plain input becomes a `prepare`
instruction when a linear reads it (fusing it with quantisation), and SwiGLU joins the product before it; a
linear becomes an instruction when its reader is known: an addition accumulates into the residual, anything
else gets a buffer; RoPE, the head norms and the cache's append become one instruction when attention reads
them.

Where weights are integers, activations are int8 in blocks of 32; they keep 16 bits (two int8 planes) at the
first 64 positions of a sequence and before weights marked `fine`. Where weights are bf16, activations are
too. docs/numerics.md has the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sampan.kernels import _native  # type: ignore[attr-defined]
from sampan.kernels.native import Machine, Operand, out_of_memory, padded
from sampan.kernels.ops import Attention, Batch, Linear, Norm, Weight

Floats = npt.NDArray[np.float32]

_COPY, _NORM, _SWIGLU = 0, 1, 2
_CACHE_TYPES = {"bf16": 0, "f32": 1, "int8": 2}


@dataclass(frozen=True)
class Segment:
    """A packed matrix that computes some of a linear's outputs: features [offset, offset + padded n).

    `operand`: the rows that it reads. `fine`: where they are INT8, all of them keep 16 bits.
    """

    matrix: Any
    offset: int
    operand: Operand
    fine: bool


class WeightSource(Protocol):
    """Where the recorder gets weights from (`weights/load.py`)."""

    def segments(self, weight: Linear) -> Sequence[Segment]:
        """Packed matrices of a linear; parts start at padded offsets, one after another."""

    def vector(self, weight: Weight) -> Floats:
        """A norm's weight or a bias as float32."""


@dataclass(frozen=True)
class Cache:
    """Size and type of the paged KV cache."""

    pages: int
    layers: int
    kv_heads: int
    head_dim: int
    dtype: str = "bf16"


@dataclass(frozen=True)
class _Buffer:
    """Floats [T, width] or, `sampled`, [S, width], which `gathers` takes from [T]; features from `offset`."""

    index: int
    width: int
    offset: int = 0
    up: int = 0
    op: int = _COPY
    norm: Norm | None = None
    sampled: bool = False
    gathers: bool = False


class _Residual:
    """The residual stream; adding a linear accumulates in place, so an old value must not be read again."""

    def __init__(self, recorder: "Recorder", buffer: _Buffer) -> None:
        self.recorder, self.buffer, self.stale = recorder, buffer, False

    def __add__(self, other: "_Pending") -> "_Residual":
        assert not self.stale, "a residual was read after it was added to"
        self.stale = True
        self.recorder.emit_linear(other, self.buffer, accumulate=True)
        return _Residual(self.recorder, self.buffer)


@dataclass(frozen=True)
class _Pending:
    """A linear whose input is prepared and whose reader is not known yet. `acts`: by (operand, fine)."""

    weight: Linear
    acts: dict[tuple[Operand, bool], int]
    sampled: bool


@dataclass(frozen=True)
class _Gated:
    """SwiGLU whose reader is not known yet."""

    linear: _Pending
    gate: int
    up: int


@dataclass(frozen=True)
class _Part:
    """One part of a pending linear, with the norm its heads get."""

    linear: _Pending
    index: int
    norm: Norm | None = None


def new_program(
    machine: Machine, cache: Cache, max_rows: int, inv_freq: Sequence[float], rope_scale: float
) -> Any:
    """An empty native program with its cache."""
    try:
        return _native.Program(
            machine.pool, machine.isa, max_rows, cache.pages, _CACHE_TYPES[cache.dtype], cache.layers,
            cache.kv_heads, cache.head_dim, list(inv_freq), rope_scale,
        )  # fmt: skip
    except MemoryError as e:
        raise out_of_memory(f"a cache of {cache.pages * _native.PAGE} tokens") from e


class Recorder:
    """Writes a native program. One recorder writes one program."""

    def __init__(self, program: Any, weights: WeightSource) -> None:
        self.program = program
        self.weights = weights
        self.buffers: dict[tuple[str, int], int] = {}
        self.activations: dict[tuple[int, Operand, bool], int] = {}
        self.norms: list[str] = []
        """Names of the norms' weights in the program's order."""
        self.biases: dict[str, Floats] = {}
        """What the program reads of each bias."""

    def embed(self, table: Weight, ids: Any) -> _Residual:
        buffer = self._buffer("residual", table.shape[1])
        self.program.embed(self.weights.segments(Linear((table,)))[0].matrix, buffer.index)
        return _Residual(self, buffer)

    def norm(self, x: Any, norm: Norm) -> _Buffer:
        return replace(self._floats(x), op=_NORM, norm=norm)

    def head_norm(self, x: _Part, norm: Norm) -> _Part:
        return _Part(x.linear, x.index, norm)

    def linear(self, x: Any, weight: Linear) -> Any:
        if isinstance(x, _Gated):
            pending = self._activated(x, weight)
        else:
            pending = self._prepare(self._floats(x), weight)
        if len(weight.parts) == 1:
            return pending
        return tuple(_Part(pending, i) for i in range(len(weight.parts)))

    def rope(self, q: _Part, k: _Part, positions: Any) -> tuple[_Part, _Part]:
        return q, k

    def attend(self, q: _Part, k: _Part, v: _Part, cache: Any, shape: Attention) -> _Buffer:
        qkv = self._materialise(q.linear, "qkv")
        starts = _starts(q.linear.weight)
        eps = q.norm.eps if q.norm else 0.0
        self.program.rope(
            qkv.index, shape.heads, starts[k.index], starts[v.index], shape.head_dim**-0.5, shape.layer,
            self.weights.vector(q.norm.weight) if q.norm else None,
            self.weights.vector(k.norm.weight) if k.norm else None, eps,
        )  # fmt: skip
        out = self._buffer("attended", shape.heads * shape.head_dim)
        self.program.attend(qkv.index, out.index, shape.heads, shape.layer)
        return out

    def swiglu(self, gate_up: tuple[_Part, _Part]) -> _Gated:
        return _Gated(gate_up[0].linear, gate_up[0].index, gate_up[1].index)

    def rows(self, x: Any, index: Any) -> Any:
        """The sample's rows: of a residual a copy that can be added to, of another value a view."""
        source = self._floats(x)
        if not isinstance(x, _Residual):
            return replace(source, sampled=True, gathers=True)
        out = replace(self._buffer("sampled residual", source.width), sampled=True)
        self.program.gather(source.index, out.index)
        x.stale = True
        return _Residual(self, out)

    def head(self, x: _Buffer, weight: Linear) -> None:
        vocabulary = weight.parts[0].shape[0]
        pending = self._prepare(x, weight)
        logits = _Buffer(self.program.logits(padded(vocabulary)), padded(vocabulary))
        self.emit_linear(pending, logits, accumulate=False)
        self.program.stats(logits.index, vocabulary)

    def emit_linear(self, pending: _Pending, out: _Buffer, *, accumulate: bool) -> None:
        """One instruction for each segment, without barriers between them."""
        bias = self._bias(pending.weight)
        for i, segment in enumerate(self.weights.segments(pending.weight)):
            n = padded(segment.matrix.n)
            part = None if bias is None else np.ascontiguousarray(bias[segment.offset : segment.offset + n])
            act, fine = pending.acts[segment.operand, segment.fine], segment.fine
            offset, joined = out.offset + segment.offset, i > 0
            self.program.linear(
                segment.matrix, act, out.index, offset, part, accumulate, pending.sampled, fine, joined
            )

    def _floats(self, x: Any) -> _Buffer:
        if isinstance(x, _Residual):
            assert not x.stale, "a residual was read after it was added to"
            return x.buffer
        assert isinstance(x, _Buffer)
        return x

    def _prepare(self, x: _Buffer, weight: Linear) -> _Pending:
        """Input rows in every form that the linear's segments need."""
        inputs = weight.parts[0].shape[1]
        acts: dict[tuple[Operand, bool], int] = {}
        if x.norm:
            self.norms.append(x.norm.weight.name)
        for operand, fine in sorted({(s.operand, s.fine) for s in self.weights.segments(weight)}):
            act = acts[operand, fine] = self._activations(inputs, operand, fine)
            self._rows(x, act, fine, joined=len(acts) > 1)
        return _Pending(weight, acts, x.sampled)

    def _rows(self, x: _Buffer, act: int, fine: bool, *, joined: bool) -> None:
        scale = self.weights.vector(x.norm.weight) if x.norm else None
        eps = x.norm.eps if x.norm else 0.0
        self.program.prepare(
            x.op, x.index, x.offset, x.up, scale, eps, act, x.sampled, x.gathers, fine, joined
        )

    def _activated(self, x: _Gated, weight: Linear) -> _Pending:
        return self._fused(x, weight) or self._prepare(self._hidden(x), weight)

    def _hidden(self, x: _Gated) -> _Buffer:
        hidden, starts = self._materialise(x.linear, "hidden"), _starts(x.linear.weight)
        gate, up = starts[x.gate], starts[x.up]
        return _Buffer(hidden.index, hidden.width, gate, up - gate, _SWIGLU, sampled=x.linear.sampled)

    def _fused(self, x: _Gated, weight: Linear) -> _Pending | None:
        """Gate, up and SwiGLU as one instruction that makes the rows which `weight` reads, where these hold
        what gate and up read."""
        read = {(s.operand, s.fine) for s in self.weights.segments(weight)}
        made = self.weights.segments(x.linear.weight)
        if len(made) > 1 or len(read) > 1 or x.linear.weight.biases or (x.gate, x.up) != (0, 1):
            return None
        operand, fine = next(iter(read))
        if operand is Operand.F32 or operand is not made[0].operand:
            return None
        act = self._activations(weight.parts[0].shape[1], operand, fine)
        source, sampled = x.linear.acts[operand, made[0].fine], x.linear.sampled
        self.program.gated(made[0].matrix, source, act, made[0].fine, fine, sampled)
        return _Pending(weight, {(operand, fine): act}, sampled)

    def _materialise(self, pending: _Pending, role: str) -> _Buffer:
        buffer = self._buffer(role, sum(padded(p.shape[0]) for p in pending.weight.parts))
        self.emit_linear(pending, buffer, accumulate=False)
        return buffer

    def _bias(self, weight: Linear) -> Floats | None:
        if not weight.biases:
            return None
        bias = np.zeros(sum(padded(part.shape[0]) for part in weight.parts), np.float32)
        for start, part in zip(_starts(weight), weight.biases, strict=True):
            bias[start : start + part.shape[0]] = self.weights.vector(part)
            self.biases[part.name] = bias[start : start + part.shape[0]]
        return bias

    def _buffer(self, role: str, width: int) -> _Buffer:
        key = (role, width)
        if key not in self.buffers:
            self.buffers[key] = self.program.buffer(width)
        return _Buffer(self.buffers[key], width)

    def _activations(self, inputs: int, operand: Operand, fine: bool) -> int:
        key = (inputs, operand, fine)
        if key not in self.activations:
            self.activations[key] = self.program.activations(inputs, operand)
        return self.activations[key]


def symbolic_batch() -> Batch:
    """A batch without values, to record with."""
    return Batch(ids=None, positions=None, sampled=None, cache=None)


def _starts(weight: Linear) -> list[int]:
    return [0, *accumulate(padded(part.shape[0]) for part in weight.parts[:-1])]
