"""What the native kernels are written for. Anything else is refused by name, before weights are read."""

from sampan.core.errors import UnsupportedModel
from sampan.kernels.graph import Graph, Node

_TAPS, _KEYS = 16, 256  # at most


def check(graph: Graph, where: str) -> None:
    """Raise `UnsupportedModel` for the first node that the kernels cannot compute; `where`: the model."""
    for node in graph.nodes:
        problem = _problem(node)
        if problem:
            raise UnsupportedModel(f"{where}: {node.label}: {problem}")


def _problem(node: Node) -> str | None:
    match node.op:
        case "convolve" if (taps := node.detail.weight.shape[1]) > _TAPS:
            return f"{taps} taps: {_TAPS} at most"
        case "delta" if node.detail.key_size > _KEYS:
            return f"keys of {node.detail.key_size}: {_KEYS} at most"
    return None
