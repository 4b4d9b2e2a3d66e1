"""What the native kernels are written for. Anything else is refused by name, before weights are read."""

from itertools import accumulate

from sampan.core.errors import UnsupportedModel
from sampan.kernels.graph import Graph, Node
from sampan.kernels.ops import Convolution, Linear, State

_INPUTS = 32  # features that share an activation's scale
_LANES = 16
_TAPS, _KEYS = 16, 256  # at most


def check(graph: Graph, where: str) -> None:
    """Raise `UnsupportedModel` for the first node that the kernels cannot compute; `where`: the model."""
    for node in graph.nodes:
        problem = _problem(node)
        if problem:
            raise UnsupportedModel(f"{where}: {node.label}: {problem}")


def _problem_of_experts(node: Node) -> str | None:
    inner = node.detail.gate_up[0].parts[0].shape[0]
    for inputs in (node.width, inner):
        if inputs % _INPUTS:
            return f"{inputs} inputs are not a multiple of {_INPUTS}"
    return None


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
        case "per_head":
            inputs, outputs = node.detail.sizes
            for name, size in (("inputs", inputs), ("outputs", outputs), ("features", node.detail.head_size)):
                if size % _INPUTS:
                    return f"{size} {name} of a head are not a multiple of {_INPUTS}"
            return None
        case "experts":
            return _problem_of_experts(node)
        case "convolve" | "delta":
            return _problem_of_state(node.detail)
        case "linear" if not _in_place(node.detail):
            return f"joined parts are no multiples of {_LANES}"
        case "linear" | "head":
            inputs = node.inputs[0].width
            return f"{inputs} inputs are not a multiple of {_INPUTS}" if inputs % _INPUTS else None
        case "norm":
            size = node.detail.weight.shape[0]
            return f"a norm over {size} features is not a multiple of {_LANES}" if size % _LANES else None
        case "attend":
            shape = node.detail
            for name, size in (("key", shape.key_size), ("value", shape.value_size)):
                if size % _INPUTS:
                    return f"{name} size {size} is not a multiple of {_INPUTS}"
            return None
    return None
