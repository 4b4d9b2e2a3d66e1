"""Makes the plan of a graph: one pass over its nodes, each of which becomes the instructions that it takes.

Activations are int8 in blocks of 32 where weights are integers; they keep 16 bits (two int8 planes) at the
first 64 positions of a sequence and before weights marked `fine`. Where weights are bf16, activations are
too. docs/numerics.md has the figures; `readers.py` says what is fused.

With room for adapters (arXiv:2106.09685) one plan serves both kinds of steps. Those in which some row has an
adapter compute gate, up and SwiGLU apart, which gives the same bits, keep each linear's input rows as floats
too, and add the low-rank products.
"""

from itertools import accumulate
from typing import Any

from sampan.kernels.backend import AdapterRoom
from sampan.kernels.cpu import heads, recurrent
from sampan.kernels.cpu.experts import ExpertWriter
from sampan.kernels.cpu.layout import Layout, turned
from sampan.kernels.cpu.machine import BLOCK, blocked, padded
from sampan.kernels.cpu.plan import Output, Place, Plan, Turning, floats_of
from sampan.kernels.cpu.products import Product, Products, in_place, starts_of
from sampan.kernels.cpu.readers import Readers, owner_of
from sampan.kernels.cpu.writer import Writer
from sampan.kernels.graph import Graph, Node
from sampan.kernels.ops import Linear, PerHead


def make_plan(graph: Graph, layout: Layout, rows: int, room: AdapterRoom | None = None) -> Plan:
    """The plan of steps of at most `rows` tokens."""
    return _Planner(graph, layout, rows, room).plan()


class _Planner:
    def __init__(self, graph: Graph, layout: Layout, rows: int, room: AdapterRoom | None) -> None:
        self._graph = graph
        self._writer = Writer(layout, rows, room)
        self._readers = Readers(graph)
        self._places: dict[Node, Place] = {}
        self._pending: dict[Node, Product] = {}
        self._products = Products(self._writer, self._readers, self._place)
        self._experts_writer = ExpertWriter(self._writer, self._products, graph)
        self._layers = {shape.layer: index for index, shape in enumerate(graph.attentions())}
        sizes = map(floats_of, graph.states())
        self._states = dict(zip(graph.states(), accumulate(sizes, initial=0), strict=False))

    def plan(self) -> Plan:
        self._writer.plan.attentions = tuple(map(heads.cached, self._graph.attentions()))
        self._writer.plan.states = self._graph.states()
        for rope in self._graph.ropes():
            self._writer.angles(rope)
        for table in range(len(self._writer.plan.angles)):
            self._writer.emit("angles", "rope", joined=table > 0, table=table)
        for node in self._graph.nodes:
            getattr(self, f"_{node.op}")(node)
        for name, node in self._graph.outputs.items():
            if node.op != "head":
                self._writer.keep(name, Output(self._place(node), node.width, node.sampled))
        return self._writer.finish()

    def _place(self, node: Node) -> Place:
        """Where a value's floats are."""
        owner, start = owner_of(node)
        base = self._places[owner]
        if owner.op != "linear":
            return Place(base.buffer, base.offset + start)
        for size, begin in starts_of(owner.detail):
            if start < size:
                return Place(base.buffer, base.offset + begin + start)
            start -= size
        raise AssertionError("a slice beyond its linear")

    def _embed(self, node: Node) -> None:
        (segment,) = self._writer.segments(Linear((node.detail,)))
        self._places[node] = self._writer.buffer(node.width)
        begun = self._writer.plan.instructions
        beside = bool(begun) and begun[-1].op == "angles"
        self._writer.emit(
            "embed", node.label, joined=beside, matrix=segment, out=self._places[node],
            width=node.width,
        )  # fmt: skip

    def _given(self, node: Node) -> None:
        self._places[node] = self._writer.buffer(node.width)
        self._writer.give(Output(self._places[node], node.width, sampled=False))

    def _slice(self, node: Node) -> None:
        """A view."""

    def _linear(self, node: Node) -> None:
        product = self._products.prepare(node)
        if not in_place(product.weight):
            self._places[node] = self._products.together(product)
        elif self._readers.added(node):
            self._pending[node] = product
        elif not self._products.fuse(product):
            self._places[node] = self._products.buffer_of(product.weight)
            self._products.emit(product, self._places[node])

    def _per_head(self, node: Node) -> None:
        weight: PerHead = node.detail
        segments = [self._writer.segments(Linear((turned(part, weight),)))[0] for part in weight.parts]
        form = segments[0].operand, segments[0].fine
        self._writer.plan.longest = max(self._writer.plan.longest, segments[0].k)
        if not heads.whole(weight):
            self._places[node] = heads.per_head(self._writer, node, self._place(node.inputs[0]), segments)
            return
        acts = self._products.inputs(node, node.inputs[0], [form])
        act = acts[form]
        self._places[node] = self._writer.buffer(node.width)
        self._writer.emit(
            "per_head", node.label, matrices=tuple(segments), act=act, x=self._place(node.inputs[0]),
            out=self._places[node], heads=len(segments), size=weight.head_size, fine=form[1],
            sampled=node.sampled,
        )  # fmt: skip
        if self._writer.plan.room is not None:
            strides = weight.head_size, node.width // len(segments)
            self._writer.adapt_heads(node, acts[self._products.floats(acts)], self._places[node], strides)

    def _experts(self, node: Node) -> None:
        self._places[node] = self._writer.buffer(node.width)
        self._experts_writer.write(node, self._places[node])

    def _head(self, node: Node) -> None:
        product = self._products.prepare(node)
        logits = self._writer.logits(node.width)
        self._products.emit(product, logits)
        self._writer.emit("stats", node.label, x=logits, sampled=True)

    def _add(self, node: Node) -> None:
        x, y = node.inputs
        if x in self._pending and y in self._pending:
            self._settle(x)
        for kept, other in ((x, y), (y, x)):
            if other in self._pending:
                # Onto the other value even where that stays: with adapters the order of the sum matters.
                if self._grows(kept, node):
                    self._places[node] = self._places[kept]
                else:
                    self._copy(node, kept)
                self._products.emit(self._pending.pop(other), self._places[node], accumulate=True)
                return
        self._map("add", node)

    def _settle(self, linear: Node) -> None:
        """A linear that was to be added where it is computed, as a value of its own."""
        product = self._pending.pop(linear)
        self._places[linear] = self._products.buffer_of(product.weight)
        self._products.emit(product, self._places[linear])

    def _grows(self, value: Node, reader: Node) -> bool:
        """Whether the reader's result may take the value's place."""
        place = self._places.get(value)
        return place is not None and place.offset == 0 and self._readers.free(value, reader)

    def _norm(self, node: Node) -> None:
        if self._readers.prepared(node) or self._readers.turned(node):
            return
        weight = self._writer.vector(node.detail.weight)
        self._places[node] = self._writer.buffer(node.width)
        self._writer.emit(
            "norm", node.label, x=self._place(node.inputs[0]), out=self._places[node], width=node.width,
            size=weight.shape[0], weight=weight, eps=node.detail.eps, mark=self._products.mark(node),
            sampled=node.sampled,
        )  # fmt: skip

    def _scale(self, node: Node) -> None:
        self._map("scale", node, factor=node.detail)

    def _gate(self, node: Node) -> None:
        self._map("gate", node, single=node.inputs[1].width == 1 and node.width > 1)

    def _swiglu(self, node: Node) -> None:
        if not self._readers.prepared(node):
            self._map("swiglu", node)

    def _rows(self, node: Node) -> None:
        if not self._readers.prepared(node):
            self._copy(node, node.inputs[0], gathers=True)

    def _concat(self, node: Node) -> None:
        whole = self._places[node] = self._writer.buffer(node.width)
        start = 0
        for part in node.inputs:
            out = Place(whole.buffer, start)
            self._writer.emit(
                "map", node.label, joined=start > 0, map="copy", x=self._place(part), out=out,
                width=part.width, sampled=node.sampled,
            )  # fmt: skip
            start += part.width

    def _rope(self, node: Node) -> None:
        if self._readers.turned(node):
            return
        rope = node.detail
        if self._readers.free(node.inputs[0], node):
            self._places[node] = self._place(node.inputs[0])
        else:
            self._copy(node, node.inputs[0])
        turn = Turning(None, self._writer.angles(rope), rope.first, rope.form == "interleaved")
        self._writer.emit(
            "rotate", node.label, x=self._places[node], heads=node.width // rope.head_size,
            size=rope.head_size, turn=turn,
        )  # fmt: skip

    def _attend(self, node: Node) -> None:
        shape = node.detail
        (q, turn), (k, k_turn) = (self._heads(node, value) for value in node.inputs[:2])
        layer = self._layers[shape.layer]
        size, whole = shape.value_size, blocked(shape.value_size)
        values: dict[str, Any] = {}
        if not shape.latent:
            v = self._place(node.inputs[2])
            values = {"z": heads.laid(self._writer, node, v, shape.kv_heads, size, whole)}
        turn = turn._replace(scale=shape.scale)
        self._writer.emit(
            "append", node.label, x=q, y=k, heads=shape.heads, layer=layer, turn=turn, k_turn=k_turn, **values
        )
        out = self._writer.buffer(shape.heads * whole)
        self._writer.emit("attend", node.label, x=q, out=out, heads=shape.heads, layer=layer)
        self._places[node] = heads.laid(self._writer, node, out, shape.heads, whole, size)

    def _convolve(self, node: Node) -> None:
        x, (channels, taps) = node.inputs[0], node.detail.weight.shape
        whole = recurrent.whole_channels(self._writer, node, self._place(x))
        free = whole is None and self._readers.free(x, node)
        source = whole or self._place(x)
        self._places[node] = source if whole or free else self._writer.buffer(node.width)
        self._writer.emit(
            "convolve", node.label, x=source, out=self._places[node], width=padded(channels), size=taps,
            weight=self._writer.vector(node.detail.weight), state=self._states[node.detail],
        )  # fmt: skip

    def _delta(self, node: Node) -> None:
        x, b, a = map(self._place, node.inputs)
        self._places[node] = recurrent.delta(self._writer, node, x, y=b, z=a, state=self._states[node.detail])

    def _heads(self, node: Node, value: Node) -> tuple[Place, Turning]:
        """Where heads are turned in place, and how."""
        size = node.detail.key_size
        if size % BLOCK:  # they are turned already
            many, x = value.width // size, self._place(value)
            return heads.laid(self._writer, node, x, many, size, blocked(size)), Turning()
        base, norm, rope = self._readers.chain(value)
        place = self._place(base)
        if not self._readers.free(base, node):
            place = self._writer.buffer(base.width)
            self._writer.emit("map", node.label, map="copy", x=self._place(base), out=place, width=base.width)
        if norm is not None:
            self._writer.vector(norm.detail.weight)
        table = -1 if rope is None else self._writer.angles(rope.detail)
        first, crossed = (rope.detail.first, rope.detail.form == "interleaved") if rope else (0, False)
        return place, Turning(norm.detail if norm else None, table, first, crossed)

    def _copy(self, node: Node, source: Node, *, gathers: bool = False) -> None:
        self._places[node] = self._writer.buffer(node.width)
        self._writer.emit(
            "map", node.label, map="copy", x=self._place(source), out=self._places[node], width=node.width,
            sampled=node.sampled, gathers=gathers,
        )  # fmt: skip

    def _map(self, kind: str, node: Node, **fields: Any) -> None:
        """Feature by feature, in the first input's place where that is free."""
        x = node.inputs[0]
        out = self._places[x] if self._grows(x, node) else self._writer.buffer(node.width)
        if len(node.inputs) > 1:
            fields["y"] = self._place(node.inputs[1])
        self._places[node] = out
        self._writer.emit(
            "map", node.label, map=kind, x=self._place(x), out=out, width=node.width, sampled=node.sampled,
            **fields,
        )  # fmt: skip
