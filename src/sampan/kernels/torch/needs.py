"""What a graph takes on a device: its weights, and a bound of the memory of a step.

Torch allocates as it goes, so that a figure can only be an upper bound: the widths of the values that are
alive at once, what the widest operation keeps beside them, and one block of an attention. What torch's
libraries take for themselves, and what an allocator keeps in reserve, are not in it.
"""

from math import prod

import torch

from sampan.kernels.backend import PAGE, AdapterRoom, Needs
from sampan.kernels.graph import Graph, Node
from sampan.kernels.ops import Attention
from sampan.kernels.torch.cache import DTYPES, GROUP, at_once, numbers_of_a_page
from sampan.kernels.torch.rows import SUMMED

_WIDE = 4  # bytes of float32, in which norms and softmax compute


def needs_of(
    graph: Graph, dtype: torch.dtype, device: torch.device, max_rows: int, room: AdapterRoom | None
) -> Needs:
    """See `backend.Needs`. `dtype`: of weights and values."""
    head = max((node.width for node in graph.nodes if node.op == "head"), default=0)
    numbers = sum(shape.cached for shape in graph.attentions())
    parts = {name: prod(weight.shape) * dtype.itemsize for name, weight in graph.weights().items()}
    return Needs(
        weights=sum(parts.values()),
        parts=parts,
        workspace=_workspace(graph, dtype, device, max_rows),
        logits=head * (_WIDE if dtype.itemsize == _WIDE else _WIDE + dtype.itemsize),
        page={name: PAGE * numbers * kind.itemsize for name, kind in DTYPES.items()},
        dtype="f32" if dtype == torch.float32 else "bf16",
        adapters=_adapters(graph, room) * dtype.itemsize,
        state=sum(prod(state.state) for state in graph.states()) * _WIDE,
    )


def _adapters(graph: Graph, room: AdapterRoom | None) -> int:
    """Numbers of all adapters that there is room for, without what they add to experts."""
    if room is None:
        return 0
    parts = [part for node in graph.nodes if node.op == "linear" for part in node.detail.parts]
    heads = [node.detail.parts for node in graph.nodes if node.op == "per_head"]  # which share A
    each: int = sum(sum(part.shape) for part in parts)
    each += sum(own[0].shape[1] + sum(part.shape[0] for part in own) for own in heads)
    return room.count * room.rank * each


def _workspace(graph: Graph, dtype: torch.dtype, device: torch.device, rows: int) -> int:
    """Bytes of a step's values, angles and attention, or of what its logits are summed in if that is more."""
    last: dict[Node, int] = {}
    for place, node in enumerate(graph.nodes):
        last |= {_storage(source): place for source in node.inputs}
    last |= {_storage(node): len(graph.nodes) for node in graph.outputs.values()}
    alive = most = 0
    for place, node in enumerate(graph.nodes):
        most = max(most, alive * rows * dtype.itemsize + _temporary(node, device, rows))
        alive += _width(node)
        done = {_storage(source) for source in (*node.inputs, node)}
        alive -= sum(_width(source) for source in done if last.get(source, place) <= place)
    pairs = sum(len(rope.inv_freq) for rope in graph.ropes())
    angles = rows * pairs * (3 * 8 + 2 * dtype.itemsize)  # made in float64
    return max(most + angles, 3 * SUMMED * rows * _WIDE)


def _storage(node: Node) -> Node:
    """Whose memory a value lies in: a slice is a view."""
    return _storage(node.inputs[0]) if node.op == "slice" else node


def _width(node: Node) -> int:
    """Of its own memory; logits are counted apart."""
    return 0 if node.op in ("slice", "head") else node.width


def _temporary(node: Node, device: torch.device, rows: int) -> int:
    """Bytes of a result and of what is there while it is computed."""
    match node.op:
        case "attend":
            wide = sum(source.width for source in node.inputs) + 6 * node.width
            return rows * _WIDE * wide + _attending(node.detail, device, rows)
        case "experts":  # of each row's experts, if one of them has them all
            inner = int(node.detail.gate_up[0].parts[0].shape[0])
            chosen = int(node.detail.router.chosen)
            return rows * _WIDE * (4 * node.width + chosen * (3 * inner + node.width))
        case "convolve" | "delta":  # the state before and behind a row, and what is added to it
            wide = sum(source.width for source in node.inputs) + node.width
            return _WIDE * 4 * (rows * wide + int(prod(node.detail.state)))
        case "linear":  # its parts, the whole, and with adapters their products and rows
            return rows * _WIDE * (3 * node.width + node.inputs[0].width)
        case _:
            return rows * _WIDE * 3 * _width(node)


def _attending(shape: Attention, device: torch.device, rows: int) -> int:
    """Of one block: keys and values as they were read and as products take them; scores, masked and not,
    their exponentials and these rounded."""
    gathered, scores = numbers_of_a_page(shape, min(rows, GROUP), rows)
    most = at_once(device)
    return max(gathered, most) * 2 * _WIDE + max(scores, most) * 4 * _WIDE
