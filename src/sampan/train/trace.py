"""A model's graph with the values that its backward pass reads kept.

What is computed stays the same to the bit: a kept value is only not overwritten.
"""

from dataclasses import dataclass

from sampan.kernels.graph import LOGITS, Graph, Node


@dataclass(frozen=True, eq=False)
class Trace:
    """`graph`: the logits, and every kept value by a name. `names`: of each kept node."""

    graph: Graph
    names: dict[Node, str]

    @property
    def floats(self) -> int:
        """Kept numbers of each row."""
        return sum(node.width for node in self.names)


def trace(graph: Graph) -> Trace:
    """Keep what linears give (where that is only added to something, the sum), so that the backward pass
    computes no product a second time."""
    readers: dict[Node, list[Node]] = {node: [] for node in graph.nodes}
    for node in graph.nodes:
        for source in node.inputs:
            readers[source].append(node)
    kept: dict[Node, str] = {}
    for node in graph.nodes:
        if node.op != "linear":
            continue
        (first, *others) = readers[node]
        if first.op == "slice":
            found = [first, *others]
        else:
            found = [first] if first.op == "add" and not others else [node]
        kept |= {each: f"{each.label} {len(kept) + place}" for place, each in enumerate(found)}
    outputs = {LOGITS: graph.outputs[LOGITS], **{name: node for node, name in kept.items()}}
    return Trace(Graph(graph.nodes, outputs), kept)
