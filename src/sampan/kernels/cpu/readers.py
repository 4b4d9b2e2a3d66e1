"""Who reads what in a graph, and which values never become rows of floats because their readers take them on.

A norm, a SwiGLU or a choice of rows that only linears read is part of preparing the linears' input. A linear
that only an addition reads is added where it is computed. Norms and rotations of heads between a linear and
attention are part of appending to the cache. A slice is a view.
"""

from collections import defaultdict
from dataclasses import dataclass
from math import inf

from sampan.kernels.cpu.machine import BLOCK
from sampan.kernels.graph import Graph, Node

_PRODUCTS = ("linear", "head", "experts")


@dataclass(frozen=True)
class Read:
    """Features [start, stop) of a value, read by a node that stands at `position`."""

    start: int
    stop: int
    position: float


class Readers:
    """Of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.position = {node: place for place, node in enumerate(graph.nodes)}
        self._kept = set(graph.outputs.values()) - {node for node in graph.nodes if node.op == "head"}
        self._consumers: dict[Node, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for source in node.inputs:
                self._consumers[source].append(node)
        self._reads: dict[Node, list[Read]] = defaultdict(list)
        for node in graph.nodes:
            for source in self._floats(node):
                self._note(source, self.position[node])
        for node in self._kept:
            self._note(node, inf)

    def consumers(self, node: Node) -> list[Node]:
        """Nodes that have it as an input, once for each time."""
        return self._consumers[node]

    def only(self, node: Node) -> Node | None:
        """The one consumer, if there is no other and the value is not kept."""
        found = self._consumers[node]
        return found[0] if len(found) == 1 and node not in self._kept else None

    def prepared(self, node: Node) -> bool:
        """Its readers are products, which take it on while they prepare their input."""
        if node in self._kept or not self._consumers[node]:
            return False
        if any(reader.op not in _PRODUCTS for reader in self._consumers[node]):
            return False
        routed = any(reader.op == "experts" for reader in self._consumers[node])
        match node.op:
            case "norm":
                return bool(node.detail.weight.shape[0] == node.width)
            case "rows":
                return not routed
            case "swiglu":
                return not routed and self.halves(node) is not None
        return False

    def halves(self, swiglu: Node) -> Node | None:
        """The linear of two parts or more whose slices, gate before up, a SwiGLU reads."""
        gate, up = swiglu.inputs
        if gate.op != "slice" or up.op != "slice" or gate.inputs != up.inputs or gate.detail >= up.detail:
            return None
        return gate.inputs[0] if gate.inputs[0].op == "linear" else None

    def added(self, node: Node) -> bool:
        """A linear that is added where it is computed."""
        reader = self.only(node)
        return node.op == "linear" and reader is not None and reader.op == "add"

    def turned(self, node: Node) -> bool:
        """A norm of heads or a rotation that attention takes on."""
        if node.op not in ("norm", "rope"):
            return False
        reader = self.only(node)
        if reader is None or (reader.op == "rope" and node.op == "norm" and not self.turned(reader)):
            return False
        if reader.op == "rope":
            return node.op == "norm" and bool(node.detail.weight.shape[0] == reader.detail.head_size)
        if reader.op != "attend" or node in reader.inputs[2:] or reader.detail.key_size % BLOCK:
            return False  # heads that are no whole blocks are turned before they are laid out for the cache
        size = node.detail.head_size if node.op == "rope" else node.detail.weight.shape[0]
        return bool(size == reader.detail.key_size)

    def chain(self, node: Node) -> tuple[Node, Node | None, Node | None]:
        """Of attention's q or k: what its heads are made of, and the norm and rotation that come before."""
        rope = node if node.op == "rope" and self.turned(node) else None
        node = rope.inputs[0] if rope else node
        norm = node if node.op == "norm" and self.turned(node) else None
        return (norm.inputs[0] if norm else node), norm, rope

    def free(self, node: Node, reader: Node) -> bool:
        """Whether nothing but `reader` reads any of the value's features from there on."""
        owner, start = owner_of(node)
        position = self.position[reader]
        after = [r for r in self._reads[owner] if r.start < start + node.width and start < r.stop]
        return sum(r.position >= position for r in after) == 1

    def _floats(self, node: Node) -> list[Node]:
        """The values whose floats a node reads when its turn comes."""
        if node.op == "slice" or self.turned(node) or self.prepared(node):
            return []
        if node.op == "attend":
            return [self.chain(node.inputs[0])[0], self.chain(node.inputs[1])[0], *node.inputs[2:]]
        found: list[Node] = []
        for source in node.inputs:
            if self.prepared(source):
                found += source.inputs
            elif not (node.op == "add" and self.added(source)):
                found.append(source)
        return found

    def _note(self, node: Node, position: float) -> None:
        owner, start = owner_of(node)
        self._reads[owner].append(Read(start, start + node.width, position))


def owner_of(node: Node) -> tuple[Node, int]:
    """The value that a slice is a view of, and its first feature there."""
    start = 0
    while node.op == "slice":
        start += node.detail
        node = node.inputs[0]
    return node, start
