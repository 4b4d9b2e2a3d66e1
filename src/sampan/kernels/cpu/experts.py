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
from sampan.kernels.cpu.stored import StoredLayer, StoredMatrix
from sampan.kernels.cpu.writer import Writer
from sampan.kernels.graph import Graph, Node
from sampan.kernels.ops import Experts, Linear, Router

_QUAD = 4  # of kernels.h


def most_slots(router: Router, rows: int) -> int:
    """Of so many rows: `most_slots` of experts.h."""
    pairs = rows * router.chosen
    return pairs + min(router.weight.shape[0], pairs) * (_QUAD - 1)


class ExpertWriter:
    """Writes the instructions of `experts` nodes.

    Where experts stay on disk, each goes through its products alone once it is there: these are stages of one
    instruction, which asks for the experts that the router has chosen.
    """

    def __init__(self, writer: Writer, products: Products, graph: Graph) -> None:
        self._writer, self._products = writer, products
        self._nodes = [node for node in graph.nodes if node.op == "experts"]
        self._on_disk = writer.layout.experts is not None
        self._without = writer.layout.experts.without if writer.layout.experts else frozenset()
        self._ahead: Ahead | None = None

    def write(self, node: Node, out: Place) -> None:
        """All of one node's."""
        experts: Experts = node.detail
        router = self._writer.router(experts.router)
        slots = most_slots(experts.router, self._writer.plan.rows)
        self._route(node, experts.router, router)
        rows: dict[str, Any] = {"router": router, "sampled": node.sampled}
        if self._on_disk:
            self._store(node, experts)
        adapts = self._writer.plan.room is not None and not self._on_disk
        with self._writer.steps("plain" if adapts else "all"):
            inner = self._inner(node, experts, slots, rows)
        floats = self._adapted_inner(node, experts, slots, rows, inner) if adapts else -1
        (down,) = self._parts(experts.down, node)
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
        self._ahead = self._ahead_of(node) if self._on_disk else None
        if self._ahead:
            self._ahead.prepare()
        self._writer.emit("route", node.label, x=scores, router=number, sampled=node.sampled)
        if self._ahead:
            self._ahead.score()
        self._writer.emit("sort", node.label, router=number, sampled=node.sampled)

    def _ahead_of(self, node: Node) -> "Ahead | None":
        """Reading ahead for the next layer that has experts, where both read a norm of what the layers add
        to."""
        place = self._nodes.index(node) + 1
        if place == len(self._nodes) or "read-ahead" in self._without:
            return None
        after = self._nodes[place]
        if node.inputs[0].op != "norm" or after.inputs[0].op != "norm":
            return None
        return Ahead(self._writer, self._products, node, after)

    def _store(self, node: Node, experts: Experts) -> None:
        """Let the plan have these experts of disk."""
        segments = self._writer.layout.segments
        each = [
            (*segments(gate_up), *segments(down))
            for gate_up, down in zip(experts.gate_up, experts.down, strict=True)
        ]
        self._writer.plan.stored.append(StoredLayer(node.label, tuple(each), experts.router.chosen))

    def _inner(self, node: Node, experts: Experts, slots: int, rows: dict[str, Any]) -> dict[Form, int]:
        """Gate, up and SwiGLU of each slot, as rows for the products behind them."""
        segments = self._parts(experts.gate_up, node)
        ffn = experts.gate_up[0].parts[0].shape[0]
        (down,) = self._parts(experts.down, node)
        form = down[0].operand, down[0].fine
        acts: dict[Form, int] = {}
        for made in segments:
            own = made[0].operand, made[0].fine
            if own not in acts:
                acts[own] = self._gather(node, own, slots, rows)
        inner = self._writer.activations(ffn, form[0], slots)
        fused = len(segments) == 1 and fusible(ffn, segments[0][0], form)
        if self._on_disk:
            self._begin(node, 2 if fused else len(segments) + 2, rows)
        if fused:
            act = acts[segments[0][0].operand, segments[0][0].fine]
            self._each(node, "gate_each", segments[0], act, result=inner, result_fine=form[1], **rows)
            return {form: inner}
        hidden = self._writer.buffer(2 * padded(ffn), slots)
        for made in segments:
            out = Place(hidden.buffer, hidden.offset + made[0].offset)
            self._each(node, "each", made, acts[made[0].operand, made[0].fine], out=out, **rows)
        self._writer.emit(
            "gather", node.label, prep="swiglu", x=hidden, up=padded(ffn), width=ffn, act=inner, fine=form[1],
            **self._staged, **rows,
        )  # fmt: skip
        return {form: inner}

    def _adapted_inner(
        self, node: Node, experts: Experts, slots: int, rows: dict[str, Any], inner: dict[Form, int]
    ) -> int:
        """The same apart, into the same rows, with what adapters add; gives the rows as floats too."""
        segments, ffn = self._parts(experts.gate_up, node), experts.gate_up[0].parts[0].shape[0]
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
            made_of: dict[str, Any] = {"prep": "swiglu", "x": hidden, "up": padded(ffn), "width": ffn, **rows}
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

    def _begin(self, node: Node, stages: int, rows: dict[str, Any]) -> None:
        """Ask for the experts, then for those of the next layer; `stages` instructions follow."""
        layer = len(self._writer.plan.stored) - 1
        if self._ahead:
            self._ahead.expect(layer + 1)
        self._writer.emit("stored", node.label, layer=layer, stages=stages, **rows)

    @property
    def _staged(self) -> dict[str, Any]:
        return {"staged": True, "joined": True} if self._on_disk else {}

    def _each(self, node: Node, op: str, matrices: Sequence[Segment], act: int, **fields: Any) -> None:
        plan, made = self._writer.plan, matrices[0]
        plan.longest = max(plan.longest, made.k)
        if self._on_disk:
            layer = plan.stored[-1]
            offset = layer.offsets[layer.experts[0].index(made)]
            fields |= {"stored": StoredMatrix(len(plan.stored) - 1, offset, made), **self._staged}
        else:
            fields["matrices"] = tuple(matrices)
        self._writer.emit(op, node.label, act=act, fine=made.fine, **fields)

    def _parts(self, linears: Sequence[Linear], node: Node) -> list[list[Segment]]:
        """Matrices of all experts, in as many groups as each expert has; all of a group are alike."""
        segments = self._writer.layout.segments if self._on_disk else self._writer.segments
        found = [segments(linear) for linear in linears]
        alike: Callable[[Segment], tuple[object, ...]] = lambda s: (s.offset, s.n, s.k, s.operand, s.fine)  # noqa: E731
        if len({tuple(map(alike, own)) for own in found}) > 1:
            raise UnsupportedModel(f"{node.label}: its experts are of several types")
        return [list(group) for group in zip(*found, strict=True)]


class Ahead:
    """What the router of `after` thinks of the hidden state that `node` reads: rows for its product, the
    product, and the experts that it would choose. Each runs beside a phase of `node`."""

    def __init__(self, writer: Writer, products: Products, node: Node, after: Node) -> None:
        self._writer, self._node, self._router = writer, node, after.detail.router
        self._rows = products.normed(node.inputs[0].inputs[0], after.inputs[0])
        (self._segment,) = writer.segments(Linear((self._router.weight,)))
        self._act = writer.activations(node.inputs[0].width, self._segment.operand)
        self._scores = products.buffer_of(Linear((self._router.weight,)))

    def prepare(self) -> None:
        self._emit("prepare", act=self._act, fine=self._segment.fine, **self._rows)

    def score(self) -> None:
        fields = {"matrix": self._segment, "fine": self._segment.fine}
        self._emit("linear", act=self._act, out=self._scores, **fields)

    def expect(self, layer: int) -> None:
        """`layer`: of the store."""
        self._emit("expect", x=self._scores, layer=layer, router=self._writer.router(self._router))

    def _emit(self, op: str, **fields: Any) -> None:
        label = f"{self._node.label}, read ahead"
        self._writer.emit(op, label, joined=True, ahead=True, sampled=self._node.sampled, **fields)
