"""Matrix products of a plan: their inputs as rows that the kernels read, and the products themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, NamedTuple

from sampan.kernels.cpu.layout import Segment
from sampan.kernels.cpu.machine import BLOCK, LANES, Operand, padded
from sampan.kernels.cpu.plan import Bias, Place
from sampan.kernels.cpu.readers import Readers
from sampan.kernels.cpu.writer import Writer
from sampan.kernels.graph import Node
from sampan.kernels.ops import Linear

Form = tuple[Operand, bool]
"""What rows hold, and whether all of them keep 16 bits."""


@dataclass(frozen=True)
class Product:
    """A linear or a head whose input is prepared: rows by their form."""

    node: Node
    acts: dict[Form, int]
    weight: Linear


class _Fused(NamedTuple):
    """Gate and up, to be computed with their SwiGLU, as rows of this form."""

    product: Product
    segment: Segment
    form: Form


class Products:
    """`place`: of a value that is there as floats."""

    def __init__(self, writer: Writer, readers: Readers, place: Callable[[Node], Place]) -> None:
        self._writer, self._readers, self._place = writer, readers, place
        self._rows: dict[tuple[Node, Form], int] = {}
        self._fused: dict[Node, _Fused] = {}
        self._marks: dict[Node, int] = {}

    def prepare(self, node: Node) -> Product:
        """Write the input of a linear or a head in every form that its matrices read."""
        x = node.inputs[0]
        forms = sorted({(s.operand, s.fine) for s in self._writer.segments(node.detail)})
        if self._readers.prepared(x) and x.op == "swiglu":
            whole = self._readers.halves(x)
            if whole in self._fused:
                return self._gated(node, x, self._fused[whole])
        return Product(node, self.inputs(node, x, forms), node.detail)

    def emit(self, product: Product, out: Place, *, accumulate: bool = False) -> None:
        """The product's values, or their sum with what is there; one instruction for each matrix."""
        node, segments = product.node, self._writer.segments(product.weight)
        self._writer.plan.longest = max(self._writer.plan.longest, *(s.k for s in segments))
        for place, segment in enumerate(segments):
            act = product.acts[segment.operand, segment.fine]
            self._writer.emit(
                "linear", node.label, joined=place > 0, matrix=segment, act=act,
                out=Place(out.buffer, out.offset + segment.offset),
                weight=self._bias(product.weight, segment), accumulate=accumulate, sampled=node.sampled,
                fine=segment.fine,
            )  # fmt: skip
        if self._adapts(node):
            act = product.acts[self.floats(product.acts)]
            self._writer.adapt(product.weight, act, out, node.label, node.sampled)

    def buffer_of(self, weight: Linear) -> Place:
        """A new buffer for all of a linear's outputs."""
        return self._writer.buffer(sum(padded(part.shape[0]) for part in weight.parts))

    def together(self, product: Product) -> Place:
        """The values of a linear with parts that are no whole panels: those of each value one behind the
        other."""
        weight, node = product.weight, product.node
        raw = self.buffer_of(weight)
        self.emit(product, raw)
        values = starts_of(weight)
        out = self._writer.buffer(values[-1][1] + values[-1][0])
        starts, sizes = padded_starts(weight), [part.shape[0] for part in weight.parts]
        part = 0
        for count, (_, to) in zip(weight.joined, values, strict=True):
            for size, run in groupby(sizes[part : part + count]):
                many = len(list(run))
                self._writer.emit(
                    "map", node.label, joined=part > 0, map="heads", x=Place(raw.buffer, starts[part]),
                    out=Place(out.buffer, to), heads=many, size=padded(size), kept=size, fill=size,
                    width=size, sampled=node.sampled,
                )  # fmt: skip
                part, to = part + many, to + many * size
        return out

    def fuse(self, product: Product) -> bool:
        """Whether gate and up are computed with their SwiGLU, once that is prepared."""
        node = product.node
        slices = self._readers.consumers(node)
        gated = self._readers.only(slices[0]) if len(slices) == 2 else None
        if gated is None or gated.op != "swiglu" or not self._readers.prepared(gated):
            return False
        reader = self._readers.only(gated)
        whole = self._readers.halves(gated) is node and all(self._readers.only(s) is gated for s in slices)
        if reader is None or reader.op != "linear" or not whole:
            return False
        read = {(s.operand, s.fine) for s in self._writer.layout.segments(reader.detail)}
        made = self._writer.segments(product.weight)
        form = next(iter(read))
        if len(made) > 1 or len(read) > 1 or product.weight.biases:
            return False
        if not fusible(gated.width, made[0], form):
            return False
        self._fused[node] = _Fused(product, made[0], form)
        return True

    def _gated(self, node: Node, gated: Node, fused: _Fused) -> Product:
        """Gate, up and SwiGLU as one instruction; apart, into the same rows, in steps with adapters."""
        writer, form, made = self._writer, fused.form, fused.segment
        act = self._rows.setdefault((gated, form), writer.activations(gated.width, form[0]))
        writer.plan.longest = max(writer.plan.longest, made.k)
        adapts = self._adapts(node)
        with writer.steps("plain" if adapts else "all"):
            writer.emit(
                "gated", fused.product.node.label, matrix=made,
                act=fused.product.acts[made.operand, made.fine], result=act, fine=made.fine,
                result_fine=form[1], sampled=node.sampled,
            )  # fmt: skip
        if not adapts:
            return Product(node, {form: act}, node.detail)
        with writer.steps("adapted"):
            hidden = self.buffer_of(fused.product.weight)
            self.emit(fused.product, hidden)
            starts = padded_starts(fused.product.weight)
            x, up = Place(hidden.buffer, starts[0]), starts[1] - starts[0]
            fields: dict[str, Any] = {"prep": "swiglu", "x": x, "up": up, "sampled": node.sampled}
            floats = self._activations(gated, (Operand.F32, False))
            writer.emit("prepare", gated.label, act=act, fine=form[1], **fields)
            writer.emit("prepare", gated.label, act=floats, joined=True, **fields)
        return Product(node, {form: act, (Operand.F32, False): floats}, node.detail)

    def inputs(self, node: Node, x: Node, forms: list[Form]) -> dict[Form, int]:
        acts: dict[Form, int] = {}
        written = 0
        adds = self._adapts(node) and not any(operand is Operand.F32 for operand, _ in forms)
        for form in [*forms, *([(Operand.F32, False)] if adds else [])]:
            known = (x, form) in self._rows
            acts[form] = self._activations(x, form)
            if known:
                continue
            with self._writer.steps("adapted" if adds and form not in forms else "all"):
                self._write_rows(x, acts[form], form[1], node.sampled, joined=written > 0)
            written += 1
        return acts

    def _write_rows(self, x: Node, act: int, fine: bool, sampled: bool, *, joined: bool) -> None:
        fields = self.reading(x)
        self._writer.emit("prepare", x.label, joined=joined, act=act, fine=fine, sampled=sampled, **fields)

    def reading(self, x: Node) -> dict[str, Any]:
        """How rows are made of a value: of its floats, or of what it is made of."""
        fields: dict[str, Any] = {"prep": "copy", "width": x.width}
        source = x
        if self._readers.prepared(x):
            source = x.inputs[0]
            if x.op == "norm":
                return self.normed(source, x)
            if x.op == "rows":
                fields |= {"gathers": True}
            else:
                gate, up = (self._place(half) for half in x.inputs)
                fields |= {"prep": "swiglu", "up": up.offset - gate.offset}
        return fields | {"x": self._place(source)}

    def normed(self, x: Node, norm: Node) -> dict[str, Any]:
        """How rows are made of a value under a norm."""
        weight, eps, mark = self._writer.vector(norm.detail.weight), norm.detail.eps, self.mark(norm)
        norm_of = {"prep": "norm", "weight": weight, "eps": eps, "mark": mark}
        return norm_of | {"x": self._place(x), "width": x.width}

    def mark(self, norm: Node) -> int:
        """The number of a norm: a fault in its input is told by it."""
        if norm not in self._marks:
            self._marks[norm] = self._writer.mark(norm.detail.weight.name.removesuffix(".weight"))
        return self._marks[norm]

    def _activations(self, x: Node, form: Form) -> int:
        if (x, form) not in self._rows:
            self._rows[x, form] = self._writer.activations(x.width, form[0])
        return self._rows[x, form]

    def _adapts(self, node: Node) -> bool:
        return self._writer.plan.room is not None and node.op in ("linear", "per_head")

    def floats(self, acts: dict[Form, int]) -> Form:
        """The form of unrounded rows, which adapters read."""
        return next(form for form in acts if form[0] is Operand.F32)

    def _bias(self, weight: Linear, segment: Segment) -> Bias | None:
        if not weight.biases:
            return None
        starts = zip(padded_starts(weight), weight.parts, weight.biases, strict=True)
        own = [(start - segment.offset, bias) for start, part, bias in starts if part in segment.parts]
        return Bias(tuple((start, self._writer.vector(bias)) for start, bias in own), padded(segment.n))


def fusible(width: int, made: Segment, form: Form) -> bool:
    """Whether gate and up of this width can be computed with their SwiGLU, as rows of this form."""
    return width % BLOCK == 0 and form[0] is not Operand.F32 and form[0] is made.operand


def in_place(weight: Linear) -> bool:
    """Whether parts that are joined lie one behind the other in a buffer, where each begins a panel."""
    ends = set(accumulate(weight.joined or (1,) * len(weight.parts)))
    return all(n in ends or part.shape[0] % LANES == 0 for n, part in enumerate(weight.parts, 1))


def starts_of(weight: Linear) -> list[tuple[int, int]]:
    """Features of a linear's values, and where they begin in a buffer."""
    return list(zip(weight.outputs, accumulate(map(padded, weight.outputs), initial=0), strict=False))


def padded_starts(weight: Linear) -> list[int]:
    """Where a linear's parts begin among its outputs in a buffer."""
    return [0, *accumulate(padded(part.shape[0]) for part in weight.parts[:-1])]
