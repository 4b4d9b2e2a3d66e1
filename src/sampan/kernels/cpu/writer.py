"""Writes a plan: instructions one after another, and the lives of what they touch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any

from sampan.kernels.backend import AdapterRoom
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.layout import Layout, Segment
from sampan.kernels.cpu.machine import Operand, blocked, padded
from sampan.kernels.cpu.plan import Activations, Angles, Buffer, Instruction, Output, Place, Plan
from sampan.kernels.cpu.storage import Region, lay_out
from sampan.kernels.cpu.stored import slots_of
from sampan.kernels.graph import Node
from sampan.kernels.ops import Linear, Rope, Router, Weight

_PLACES = ("x", "y", "z", "out")


class Writer:
    """One plan. A phase is an instruction with those `joined` to it, which run beside it."""

    def __init__(self, layout: Layout, rows: int, room: AdapterRoom | None) -> None:
        self.layout = layout
        self.plan = Plan(rows, room)
        self._phase = -1
        self._steps = "all"

    def finish(self) -> Plan:
        """The plan, with a place for everything."""
        p = self.plan
        owners: list[Buffer | Activations | Angles] = [*p.buffers, *p.activations, *p.angles]
        p.bytes = lay_out([owner.region for owner in owners])
        if self.layout.experts:
            p.expert_slots, p.expert_bytes = slots_of(p.stored, self.layout.experts, self.layout.tensors)
        return p

    def buffer(self, width: int, rows: int | None = None) -> Place:
        """A new buffer of whole panels, of the step's rows unless given."""
        size, count = padded(width), rows or self.plan.rows
        self.plan.buffers.append(Buffer(Region(4 * count * size), size, count))
        return Place(len(self.plan.buffers) - 1, 0)

    def logits(self, vocabulary: int) -> Place:
        """The buffer of the logits, which is not among the others' memory."""
        self.plan.vocabulary = vocabulary
        return Place(-1, 0)

    def activations(self, inputs: int, operand: Operand, rows: int | None = None) -> int:
        """New rows for products, of the step's unless given; inputs in whole blocks."""
        count, whole = rows or self.plan.rows, blocked(inputs)
        size = int(_native.activation_bytes(count, whole, operand))
        self.plan.activations.append(Activations(Region(size), whole, operand, count))
        return len(self.plan.activations) - 1

    def angles(self, rope: Rope) -> int:
        """The rotation's table."""
        for index, known in enumerate(self.plan.angles):
            if (known.rope.inv_freq, known.rope.scale) == (rope.inv_freq, rope.scale):
                return index
        self.plan.angles.append(Angles(Region(4 * self.plan.rows * rope.size), rope))
        return len(self.plan.angles) - 1

    def segments(self, weight: Linear) -> list[Segment]:
        """Of a linear, which the plan now needs."""
        found = list(self.layout.segments(weight))
        for segment in found:
            self.plan.segments.setdefault(segment.parts[0].name, segment)
        return found

    def vector(self, weight: Weight) -> Weight:
        """A norm's weight or a bias, which the plan now needs."""
        self.plan.vectors.setdefault(weight.name, weight)
        return weight

    def router(self, router: Router) -> int:
        """Its number."""
        if router.bias is not None:
            self.vector(router.bias)
        self.plan.routers.append(router)
        return len(self.plan.routers) - 1

    def mark(self, label: str) -> int:
        """A number for a norm."""
        self.plan.norms.append(label)
        return len(self.plan.norms) - 1

    def keep(self, name: str, output: Output) -> None:
        """A value that stays until the step ends."""
        self.plan.outputs[name] = output
        self.plan.buffers[output.place.buffer].region.touch(inf)

    def give(self, output: Output) -> None:
        """A value that is there when the step begins."""
        self.plan.given = output
        self.plan.buffers[output.place.buffer].region.touch(-1)

    def emit(self, op: str, label: str, *, joined: bool = False, **fields: Any) -> None:
        """One more instruction; what its fields name lives in its phase."""
        self._phase += not joined
        if joined:
            fields["joined"] = True
        self.plan.instructions.append(Instruction(op, fields, label, self._steps))
        for name in _PLACES:
            if name in fields and fields[name].buffer >= 0:
                self.plan.buffers[fields[name].buffer].region.touch(self._phase)
        for name in ("act", "result"):
            if name in fields:
                self.plan.activations[fields[name]].region.touch(self._phase)
        turns = [fields[name].table for name in ("turn", "k_turn") if name in fields]
        for table in [*turns, fields.get("table", -1)]:
            if table >= 0:
                self.plan.angles[table].region.touch(self._phase)

    def adapt(self, weight: Linear, act: int, out: Place, label: str, sampled: bool) -> None:
        """What adapters add to the linear just written: beside it A x, and B of that in a phase of its
        own."""
        self._site(weight.parts)
        outputs = tuple(part.shape[0] for part in weight.parts)
        self.plan.adapted += len(outputs) * blocked(weight.parts[0].shape[1]) + sum(map(padded, outputs))
        self.emit("adapt", label, joined=True, act=act, outputs=outputs, out=out, sampled=sampled)
        self._expanded(out)

    def adapt_heads(self, node: Node, act: int, out: Place, strides: tuple[int, int]) -> None:
        """The same of a matrix for each head. `strides`: from one head's inputs to the next one's, and from
        its outputs. One of A and B is the same for all heads."""
        parts, (inputs, size) = node.detail.parts, node.detail.sizes
        self._site(parts)
        if node.detail.transposed:
            self.plan.turned.update(part.name for part in parts)
        own, other = (inputs, size) if node.detail.transposed else (size, inputs)
        self.plan.adapted += len(parts) * max(padded(own), blocked(own)) + max(padded(other), blocked(other))
        self.emit(
            "adapt", node.label, joined=True, act=act, outputs=(size,) * len(parts), out=out,
            sampled=node.sampled, heads=(blocked(inputs), *strides),
        )  # fmt: skip
        self._expanded(out)

    def _expanded(self, out: Place) -> None:
        self._phase += 1
        self.plan.buffers[out.buffer].region.touch(self._phase)

    def adapt_each(self, weights: Sequence[Linear], act: int, out: Place, label: str, router: int) -> None:
        """The same of a layer's experts, in two phases, on their slots."""
        for weight in weights:
            self._site(weight.parts)
        outputs = tuple(part.shape[0] for part in weights[0].parts)
        self.emit("adapt_each", label, act=act, out=out, outputs=outputs, experts=len(weights), router=router)
        self._expanded(out)
        self.plan.adapted_rows = max(self.plan.adapted_rows, self.plan.buffers[out.buffer].rows)

    def _site(self, parts: Sequence[Weight]) -> None:
        self.plan.adapted_parts = max(self.plan.adapted_parts, len(parts))
        for part in parts:
            self.plan.sites[part.name] = len(self.plan.sites)

    @contextmanager
    def steps(self, which: str) -> Iterator[None]:
        """Instructions for these steps only."""
        before, self._steps = self._steps, which
        yield
        self._steps = before
