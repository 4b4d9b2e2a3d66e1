"""What carries a state, for kernels of whole vectors of 16: other sizes are laid out as such, and put
together again. What is behind is zero, and so is all that comes of it.
"""

from math import sqrt
from typing import Any

from sampan.kernels.cpu import heads
from sampan.kernels.cpu.machine import padded
from sampan.kernels.cpu.plan import Place
from sampan.kernels.cpu.writer import Writer
from sampan.kernels.graph import Node
from sampan.kernels.ops import DeltaRule


def whole_channels(writer: Writer, node: Node, x: Place) -> Place | None:
    """The rows that are convolved, in a buffer of their own; None where they can be read as they are."""
    channels = node.detail.weight.shape[0]
    if padded(channels) == channels:
        return None
    return heads.laid(writer, node, x, 1, channels, padded(channels))


def delta(writer: Writer, node: Node, x: Place, **fields: Any) -> Place:
    """The rule over q, k and v at `x`; where its values are."""
    rule: DeltaRule = node.detail
    key, value = padded(rule.key_size), padded(rule.value_size)
    out = writer.buffer(rule.heads * value)
    writer.emit(
        "delta", node.label, x=_spread(writer, node, x), out=out, heads=rule.heads, key_heads=rule.key_heads,
        size=key, width=value, weight=writer.vector(rule.decay), bias=writer.vector(rule.bias), **fields,
    )  # fmt: skip
    out = heads.laid(writer, node, out, rule.heads, value, rule.value_size)
    if key != rule.key_size:  # the kernel divides by the root of what it was given
        writer.emit(
            "map", node.label, map="scale", x=out, out=out, width=node.width,
            factor=sqrt(key / rule.key_size), sampled=node.sampled,
        )  # fmt: skip
    return out


def _spread(writer: Writer, node: Node, x: Place) -> Place:
    """q, k and v, each head in whole vectors."""
    rule: DeltaRule = node.detail
    runs = ((2 * rule.key_heads, rule.key_size), (rule.heads, rule.value_size))
    if all(padded(size) == size for _, size in runs):
        return x
    whole = writer.buffer(sum(many * padded(size) for many, size in runs))
    start = to = 0
    for many, size in runs:
        width = padded(size)
        writer.emit(
            "map", node.label, joined=to > 0, map="heads", x=Place(x.buffer, x.offset + start),
            out=Place(whole.buffer, to), heads=many, size=size, kept=size, fill=width, width=width,
            sampled=node.sampled,
        )  # fmt: skip
        start, to = start + many * size, to + many * width
    return whole
