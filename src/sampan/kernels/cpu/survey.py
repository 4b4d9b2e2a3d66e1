"""What a model takes and does, before any of it is here: from its graph and what its tensors are."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from sampan.kernels.backend import Needs
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.cpu.layout import Layout
from sampan.kernels.cpu.pieces import pieces
from sampan.kernels.cpu.planner import make_plan
from sampan.kernels.cpu.rounding import GROUPS, scheme_for
from sampan.kernels.cpu.work import Work, work_of
from sampan.kernels.graph import Graph
from sampan.kernels.imagined import ImaginedTensors

_GROUP = GROUPS[0]  # of `sampan quantize`, where nobody says another
_FEW = 4  # layers that are always counted one by one
_PERIODS = (1, 4)  # after which layers repeat, in the families that there are


@dataclass(frozen=True)
class Survey:
    """Bytes that a model takes, and the work of its steps."""

    needs: Needs
    work: Work


def survey(
    first: Callable[[int], Graph],
    layers: int,
    tensors_of: Callable[[Graph], ImaginedTensors],
    backend: CpuBackend,
    max_rows: int,
) -> Survey:
    """Of a model of so many layers; `first`: the graph of its first layers and the head.

    Where every further layer is like the one before (or like the fourth before), only a few are planned.
    """

    def some(count: int) -> Survey:
        graph = first(count)
        tensors = tensors_of(graph)
        # Without the bytes of each weight by its name, which no two layers have in common.
        needs = replace(backend.needs(graph, tensors, max_rows), parts={})
        return Survey(needs, work_of(make_plan(graph, Layout(tensors), max_rows), tensors))

    for period in _PERIODS:
        low = _FEW + (layers - _FEW) % period
        if layers <= low + 2 * period:
            break
        one, two, three = (some(low + place * period) for place in range(3))
        if _longer(two, one, 1) == three:
            return _longer(three, two, (layers - low) // period - 2)
    return some(layers)


def rounded(graph: Graph, tensors: ImaginedTensors, bits: int) -> ImaginedTensors:
    """The tensors as `sampan quantize --bits` writes them."""
    found = pieces(graph, tensors, lambda weight: scheme_for(weight, bits, _GROUP))
    packed = {
        part: matrix for piece in found for matrix in [piece.described(tensors)] for part in matrix.parts
    }
    return replace(tensors, packed=packed)


def _longer(survey: Survey, before: Survey, times: int) -> Survey:
    """With so many times more of what it has more than `before`."""
    now, then = survey.needs, before.needs
    page = {kind: size + times * (size - then.page[kind]) for kind, size in now.page.items()}
    needs = replace(now, weights=now.weights + times * (now.weights - then.weights), page=page)
    return Survey(needs, survey.work.longer(before.work, times))
