"""Records a model whose linears may be adapted: y += B (A x), chosen by the row (LoRA, arXiv:2106.09685).

One program serves both kinds of steps. Those without adapters run the instructions that `Recorder` writes.
Those in which some row has an adapter compute gate, up and SwiGLU apart, which gives the same bits, keep each
linear's input rows as floats too, and add the low-rank products. A row without an adapter gets the same bits
in either.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sampan.kernels.native import Operand
from sampan.kernels.ops import Linear
from sampan.kernels.program import Recorder, WeightSource, _Buffer, _Gated, _Pending


@dataclass(frozen=True)
class AdapterRoom:
    """How many adapters there may be at once, and their largest rank."""

    count: int
    rank: int


class AdaptedRecorder(Recorder):
    """Writes a program with room for adapters. `parts`: the number of each weight that can be adapted."""

    def __init__(self, program: Any, weights: WeightSource, room: AdapterRoom) -> None:
        super().__init__(program, weights)
        program.adapters(room.count, room.rank)
        self.room = room
        self.parts: dict[str, int] = {}
        self._steps = "all"
        self._in_head = False

    def head(self, x: _Buffer, weight: Linear) -> None:
        """Not adapted."""
        self._in_head = True
        super().head(x, weight)

    def emit_linear(self, pending: _Pending, out: _Buffer, *, accumulate: bool) -> None:
        """The linear, then what adapters add to it."""
        super().emit_linear(pending, out, accumulate=accumulate)
        if self._in_head:
            return
        act = _floats(pending)
        assert act is not None
        for part in pending.weight.parts:
            self.parts[part.name] = len(self.parts)
        outputs = [part.shape[0] for part in pending.weight.parts]
        self.program.adapt(outputs, act, out.index, out.offset, pending.sampled)

    def _prepare(self, x: _Buffer, weight: Linear) -> _Pending:
        """Input rows as floats too."""
        pending = super()._prepare(x, weight)
        if self._in_head or _floats(pending) is not None:
            return pending
        act = self._activations(weight.parts[0].shape[1], Operand.F32, False)
        with self._recording("adapted"):
            self._rows(x, act, False, joined=True)
        return replace(pending, acts=pending.acts | {(Operand.F32, False): act})

    def _activated(self, x: _Gated, weight: Linear) -> _Pending:
        """Fused where that is possible; apart, into the same rows, in steps with adapters."""
        with self._recording("plain"):
            fused = self._fused(x, weight)
        with self._recording("adapted" if fused else "all"):
            return self._prepare(self._hidden(x), weight)

    @contextmanager
    def _recording(self, steps: str) -> Iterator[None]:
        """Instructions for these steps only."""
        before, self._steps = self._steps, steps
        self.program.record_for(steps)
        yield
        self._steps = before
        self.program.record_for(before)


def _floats(pending: _Pending) -> int | None:
    return next((act for (operand, _), act in pending.acts.items() if operand is Operand.F32), None)
