"""A model's matrices as they are written into a folder of packed weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from numpy import uint8
from numpy.typing import NDArray

from sampan.kernels.cpu import panels, rounding
from sampan.kernels.cpu.layout import kind_of, turned
from sampan.kernels.cpu.machine import Machine
from sampan.kernels.cpu.rounding import Scheme
from sampan.kernels.formats import PackedMatrix
from sampan.kernels.graph import Graph
from sampan.kernels.ops import Experts, Linear, PerHead, Weight
from sampan.kernels.tensors import Tensors


@dataclass(frozen=True)
class Piece:
    """Neighbouring parts that are written as one matrix: rounded by `scheme`, or as they are."""

    parts: tuple[Weight, ...]
    scheme: Scheme | None

    @property
    def name(self) -> str:
        """Of the tensor in the packed file."""
        return f"{self.parts[0].name}.packed"

    def described(self, tensors: Tensors) -> PackedMatrix:
        """What the file says of it."""
        m = self._empty(tensors)
        own = kind_of(tensors, self.parts[0])[0]
        return PackedMatrix(
            parts={part.name: part.shape[0] for part in self.parts},
            n=m.n,
            k=m.k,
            inputs=self.parts[0].shape[1],
            store=m.store,
            group=m.group,
            wide=m.wide,
            has_min=m.has_min,
            zero=m.zero,
            bytes=m.data.nbytes,
            source=own if self.scheme is None else self.scheme.type,
        )

    def panels(self, tensors: Tensors, machine: Machine) -> NDArray[uint8]:
        """Its bytes."""
        if self.scheme is None:
            packed = panels.pack(tensors, self.parts, machine)
        else:
            packed = rounding.pack(tensors, self.parts, self.scheme, machine)
        data: NDArray[uint8] = packed.data
        return data

    def _empty(self, tensors: Tensors) -> Any:
        if self.scheme is None:
            return panels.allocate(tensors, self.parts)
        return rounding.allocate(self.parts, self.scheme)


def pieces(graph: Graph, tensors: Tensors, scheme_of: Callable[[Weight], Scheme | None]) -> list[Piece]:
    """Every matrix of a model once, in the order of use; `scheme_of` says how a tensor is rounded."""

    def rounded(part: Weight) -> Scheme | None:
        return None if part.exact or part.transposed else scheme_of(part)

    def kind(part: Weight) -> object:
        return rounded(part) or kind_of(tensors, part), part.fine

    found: dict[str, Piece] = {}
    for linear in _linears(graph):
        for _, run in groupby(linear.parts, key=kind):
            parts = tuple(run)
            found.setdefault(parts[0].name, Piece(parts, rounded(parts[0])))  # a tied head comes twice
    return list(found.values())


def _linears(graph: Graph) -> Iterator[Linear]:
    """A table that is no linear counts as one."""
    for node in graph.nodes:
        if isinstance(node.detail, Linear):
            yield node.detail
        elif isinstance(node.detail, Experts):
            yield Linear((node.detail.router.weight,))
            for own in zip(node.detail.gate_up, node.detail.down, strict=True):
                yield from own  # an expert's matrices lie together: one read brings them from disk
        elif isinstance(node.detail, PerHead):
            yield from (Linear((turned(part, node.detail),)) for part in node.detail.parts)
        elif node.op == "embed":
            yield Linear((node.detail,))
