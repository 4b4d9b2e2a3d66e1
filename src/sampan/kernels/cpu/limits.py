"""What the native kernels are written for. Anything else is refused by name, before weights are read."""

from itertools import accumulate

from sampan.core.errors import UnsupportedModel
from sampan.kernels.graph import Graph, Node
from sampan.kernels.ops import Convolution, Linear, State

_LANES = 16
_TAPS, _KEYS = 16, 256  # at most


def check(graph: Graph, where: str) -> None:
    """Raise `UnsupportedModel` for the first node that the kernels cannot compute; `where`: the model."""
    for node in graph.nodes:
        problem = _problem(node)
        if problem:
            raise UnsupportedModel(f"{where}: {node.label}: {problem}")


def _problem_of_state(detail: State) -> str | None:
    if isinstance(detail, Convolution):
        channels, taps = detail.weight.shape
        if channels % _LANES or taps > _TAPS:
            return f"{channels} channels are no multiple of {_LANES}, or {taps} taps more than {_TAPS}"
        return None
    for name, size in (("key", detail.key_size), ("value", detail.value_size)):
        if size % _LANES:
            return f"{name} size {size} is not a multiple of {_LANES}"
    return f"keys of {detail.key_size}: {_KEYS} at most" if detail.key_size > _KEYS else None


def _in_place(linear: Linear) -> bool:
    """Whether parts that are joined lie one behind the other in a buffer, where each begins a panel."""
    ends = set(accumulate(linear.joined or (1,) * len(linear.parts)))
    return all(n in ends or part.shape[0] % _LANES == 0 for n, part in enumerate(linear.parts, 1))


def _problem(node: Node) -> str | None:
    match node.op:
        case "convolve" | "delta":
            return _problem_of_state(node.detail)
        case "linear" if not _in_place(node.detail):
            return f"joined parts are no multiples of {_LANES}"
    return None
