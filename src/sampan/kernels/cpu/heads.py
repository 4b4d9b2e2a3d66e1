"""Heads whose features are no whole blocks of 32: laid out as such for the kernels, and put together again.

What is behind a head's features is zero. So sums over them are those of the head itself.
"""

from collections.abc import Sequence
from dataclasses import replace

from sampan.kernels.cpu.layout import Segment
from sampan.kernels.cpu.machine import BLOCK, LANES, Operand, blocked, padded
from sampan.kernels.cpu.plan import Place
from sampan.kernels.cpu.writer import Writer
from sampan.kernels.graph import Node
from sampan.kernels.ops import Attention, PerHead


def cached(shape: Attention) -> Attention:
    """With heads of whole blocks, as the cache keeps them."""
    return replace(shape, key_size=blocked(shape.key_size), value_size=blocked(shape.value_size))


def whole(weight: PerHead) -> bool:
    """Whether the kernels can read heads where they lie, and write each one's outputs beside the next."""
    inputs, outputs = weight.sizes
    return not (inputs % BLOCK or weight.head_size % BLOCK or outputs % LANES)


def laid(writer: Writer, node: Node, x: Place, many: int, size: int, width: int) -> Place:
    """So many heads of `size` features as heads of `width`, in a buffer of their own unless they are."""
    if size == width:
        return x
    return _moved(writer, node, x, many, size, min(size, width), width)


def per_head(writer: Writer, node: Node, x: Place, segments: Sequence[Segment]) -> Place:
    """A matrix for each head of x: its inputs laid out and multiplied, and the rest of each head behind."""
    (inputs, outputs), head, many = node.detail.sizes, node.detail.head_size, len(segments)
    k, fine, rest = segments[0].k, segments[0].fine, head - inputs
    own = _moved(writer, node, x, many, head, inputs, k)
    act = writer.activations(many * k, segments[0].operand)
    writer.emit("prepare", node.label, prep="copy", x=own, act=act, fine=fine, sampled=node.sampled)
    made = writer.buffer(many * padded(outputs))
    writer.emit(
        "per_head", node.label, matrices=tuple(segments), act=act, x=own, out=made, heads=many, size=k,
        fine=fine, sampled=node.sampled,
    )  # fmt: skip
    if writer.plan.room is not None:
        floats = act
        if segments[0].operand is not Operand.F32:
            floats = writer.activations(many * k, Operand.F32)
            with writer.steps("adapted"):
                writer.emit("prepare", node.label, prep="copy", x=own, act=floats, sampled=node.sampled)
        writer.adapt_heads(node, floats, made, (k, padded(outputs)))
    out = writer.buffer(many * (outputs + rest))
    behind = Place(x.buffer, x.offset + inputs)
    for first, source, size, count in ((0, made, padded(outputs), outputs), (outputs, behind, head, rest)):
        if count:
            writer.emit(
                "map", node.label, joined=first > 0, map="heads", x=source, out=Place(out.buffer, first),
                heads=many, size=size, kept=count, fill=count, width=outputs + rest, sampled=node.sampled,
            )  # fmt: skip
    return out


def _moved(writer: Writer, node: Node, x: Place, many: int, size: int, kept: int, width: int) -> Place:
    out = writer.buffer(many * width)
    writer.emit(
        "map", node.label, map="heads", x=x, out=out, heads=many, size=size, kept=kept, fill=width,
        width=width, sampled=node.sampled,
    )  # fmt: skip
    return out
