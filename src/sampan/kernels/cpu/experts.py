"""Mixtures of experts in a plan: the router's product, rows sorted by expert, each expert's products on its
own rows, and their weighted sum.

Every pair of a row and one of its experts has a slot; an expert's slots lie together, from a whole quad on.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sampan.core.errors import UnsupportedModel
from sampan.kernels.cpu.layout import Segment
from sampan.kernels.cpu.machine import Operand, padded
from sampan.kernels.cpu.plan import Place
from sampan.kernels.cpu.products import Form, Product, Products, fusible
from sampan.kernels.cpu.writer import Writer
from sampan.kernels.graph import Node
from sampan.kernels.ops import Experts, Linear, Router

_QUAD = 4  # of kernels.h


def most_slots(router: Router, rows: int) -> int:
    """Of so many rows: `most_slots` of experts.h."""
    pairs = rows * router.chosen
    return pairs + min(router.weight.shape[0], pairs) * (_QUAD - 1)


class ExpertWriter:
    """Writes the instructions of `experts` nodes."""

    def __init__(self, writer: Writer, products: Products) -> None:
        self._writer, self._products = writer, products

    def write(self, node: Node, out: Place) -> None:
        """All of one node's."""
        experts: Experts = node.detail
        router = self._writer.router(experts.router)
        slots = most_slots(experts.router, self._writer.plan.rows)
        self._route(node, experts.router, router)
        rows: dict[str, Any] = {"router": router, "sampled": node.sampled}
        adapts = self._writer.plan.room is not None
        with self._writer.steps("plain" if adapts else "all"):
            inner = self._inner(node, experts, slots, rows)
        floats = self._adapted_inner(node, experts, slots, rows, inner) if adapts else -1
        (down,) = self._parts(node, experts.down)
        act = inner[down[0].operand, down[0].fine]
        result = self._writer.buffer(node.width, slots)
        self._each(node, "each", down, act, out=result, **rows)
        if adapts:
            self._writer.adapt_each(experts.down, floats, result, node.label, router)
        self._writer.emit("combine", node.label, x=result, out=out, width=node.width, **rows)

    def _route(self, node: Node, router: Router, number: int) -> None:
        weight = Linear((router.weight,))
        product = Product(node, self._products.inputs(node, node.inputs[0], [(Operand.F32, False)]), weight)
        scores = self._products.buffer_of(weight)
        self._products.emit(product, scores)
        self._writer.emit("route", node.label, x=scores, router=number, sampled=node.sampled)
        self._writer.emit("sort", node.label, router=number, sampled=node.sampled)

    def _inner(self, node: Node, experts: Experts, slots: int, rows: dict[str, Any]) -> dict[Form, int]:
        """Gate, up and SwiGLU of each slot, as rows for the products behind them."""
        segments = self._parts(node, experts.gate_up)
        ffn = experts.gate_up[0].parts[0].shape[0]
        (down,) = self._parts(node, experts.down)
        form = down[0].operand, down[0].fine
        acts: dict[Form, int] = {}
        for made in segments:
            own = made[0].operand, made[0].fine
            if own not in acts:
                acts[own] = self._gather(node, own, slots, rows)
        inner = self._writer.activations(ffn, form[0], slots)
        if len(segments) == 1 and fusible(ffn, segments[0][0], form):
            act = acts[segments[0][0].operand, segments[0][0].fine]
            self._each(node, "gate_each", segments[0], act, result=inner, result_fine=form[1], **rows)
            return {form: inner}
        hidden = self._writer.buffer(2 * padded(ffn), slots)
        for made in segments:
            out = Place(hidden.buffer, hidden.offset + made[0].offset)
            self._each(node, "each", made, acts[made[0].operand, made[0].fine], out=out, **rows)
        self._writer.emit(
            "gather", node.label, prep="swiglu", x=hidden, up=padded(ffn), act=inner, fine=form[1], **rows
        )
        return {form: inner}

    def _adapted_inner(
        self, node: Node, experts: Experts, slots: int, rows: dict[str, Any], inner: dict[Form, int]
    ) -> int:
        """The same apart, into the same rows, with what adapters add; gives the rows as floats too."""
        segments, ffn = self._parts(node=node, linears=experts.gate_up), experts.gate_up[0].parts[0].shape[0]
        floats: Form = Operand.F32, False
        with self._writer.steps("adapted"):
            acts: dict[Form, int] = {}
            for form in [*((made[0].operand, made[0].fine) for made in segments), floats]:
                if form not in acts:
                    acts[form] = self._gather(node, form, slots, rows)
            hidden = self._writer.buffer(2 * padded(ffn), slots)
            for made in segments:
                out = Place(hidden.buffer, hidden.offset + made[0].offset)
                self._each(node, "each", made, acts[made[0].operand, made[0].fine], out=out, **rows)
            self._writer.adapt_each(experts.gate_up, acts[floats], hidden, node.label, rows["router"])
            made_of: dict[str, Any] = {"prep": "swiglu", "x": hidden, "up": padded(ffn), **rows}
            for (operand, fine), act in inner.items():
                self._writer.emit("gather", node.label, act=act, fine=fine, **made_of)
                if operand is Operand.F32:
                    return act
            found = self._writer.activations(ffn, Operand.F32, slots)
            self._writer.emit("gather", node.label, act=found, fine=False, **made_of)
        return found

    def _gather(self, node: Node, form: Form, slots: int, rows: dict[str, Any]) -> int:
        """The rows that every slot reads."""
        act = self._writer.activations(node.inputs[0].width, form[0], slots)
        fields = self._products.reading(node.inputs[0])
        self._writer.emit("gather", node.label, act=act, fine=form[1], gathers=True, **fields, **rows)
        return act

    def _each(self, node: Node, op: str, matrices: Sequence[Segment], act: int, **fields: Any) -> None:
        self._writer.plan.longest = max(self._writer.plan.longest, matrices[0].k)
        self._writer.emit(op, node.label, matrices=tuple(matrices), act=act, fine=matrices[0].fine, **fields)

    def _parts(self, node: Node, linears: Sequence[Linear]) -> list[list[Segment]]:
        """Matrices of all experts, in as many groups as each expert has; all of a group are alike."""
        found = [self._writer.segments(linear) for linear in linears]
        alike: Callable[[Segment], tuple[object, ...]] = lambda s: (s.offset, s.n, s.k, s.operand, s.fine)  # noqa: E731
        if len({tuple(map(alike, own)) for own in found}) > 1:
            raise UnsupportedModel(f"{node.label}: its experts are of several types")
        return [list(group) for group in zip(*found, strict=True)]
