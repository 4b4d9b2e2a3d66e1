"""What training takes beside the engine, told and refused before anything is allocated.

An upper bound that is close: what the kernels keep of a step is exact, what PyTorch saves is counted node by
node (a test holds the sum against the process's peak).
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod

from sampan.core.errors import OutOfMemory
from sampan.core.memory import available_memory, megabytes
from sampan.kernels.graph import LOGITS, Node
from sampan.kernels.ops import Attention, Weight
from sampan.train.trace import Trace

HEAD_ROWS = 256
"""Rows of logits that are there at once in the backward pass."""
_KEPT = 1.1  # with what the allocator does not give back between steps: 4 to 9% were measured
_SIDE_BY_SIDE = 64  # continuations of a prompt whose keys are there at once


def bound_caches() -> None:
    """Keep fewer of the products that PyTorch's libraries have made code for, one for each shape: steps have
    ever new ones, and 1,024 of them are a quarter of a gigabyte. To be called before the first product."""
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, "32")


@dataclass(frozen=True)
class Training:
    """Bytes. `activations`: of a step of `rows` tokens, what the kernels keep and what PyTorch saves;
    `working`: of the largest single operations; `weights`: that gradients go back through; `optimizer`:
    gradients and both moments of AdamW."""

    rows: int
    activations: int
    working: int
    weights: int
    optimizer: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.activations + self.working + self.weights + self.optimizer

    def __str__(self) -> str:
        return (
            f"training takes {megabytes(self.total)} beside the engine: activations of {self.rows} rows "
            f"{megabytes(self.activations)}, weights for gradients {megabytes(self.weights)}, gradients and "
            f"optimizer {megabytes(self.optimizer)}, working space {megabytes(self.working)}"
        )

    def check(self) -> None:
        """`OutOfMemory` where the machine does not have it, with what would fit."""
        free = available_memory()
        if free is None or self.total <= free:
            return
        fitting = (free - self.total + self.activations) * self.rows // max(1, self.activations)
        advice = f"rows={fitting} would fit" if fitting > 0 else "take a smaller model, or fewer modules"
        raise OutOfMemory(f"{self}; {megabytes(free)} are free: {advice}")


def needed(
    trace: Trace, learnt: Collection[str], adapted: int, rows: int, context: int, kernels: int, size: int
) -> Training:
    """`trace`: what is trained through; `learnt`: names of the weights that are; `adapted`: numbers of the
    adapter, where there is one; `kernels`: bytes of the traced program; `size`: bytes of a number of the
    weights that gradients go back through."""
    graph = trace.graph
    weights = graph.weights()
    own = [prod(weights[name].shape) for name in learnt]
    changed = adapted + sum(own)
    through = sum(prod(weight.shape) * _bytes_of(weight, learnt, size) for weight in weights.values())
    vocabulary = graph.outputs[LOGITS].width
    head = 3 * 4 * HEAD_ROWS * vocabulary
    attention = 4 * min(rows, _SIDE_BY_SIDE) * context * max(map(_expanded, graph.attentions()))
    return Training(
        rows=rows,
        activations=kernels + int(_KEPT * 4 * rows * sum(saved(trace, learnt))),
        working=max(head, attention) + 3 * 4 * max(own, default=0),
        weights=through,
        optimizer=3 * 4 * changed,
    )


def saved(trace: Trace, learnt: Collection[str]) -> Iterator[int]:
    """Numbers of a row that PyTorch has of each node until the backward pass has gone by."""
    readers: dict[Node, set[str]] = {node: set() for node in trace.graph.nodes}
    for node in trace.graph.nodes:
        for source in node.inputs:
            readers[source].add(node.op)
    for node in trace.graph.nodes:
        match node.op:
            case "norm":  # what products read, and what its weight's gradient is made of
                yield node.width * (2 if node.detail.weight.name in learnt else 1)
            case "swiglu":  # silu(gate), and the product
                yield 2 * node.width
            case "linear" | "slice":  # what is only rotated is let go
                yield node.width if node in trace.names and readers[node] != {"rope"} else 0
            case "head":  # what its input changes in a log-probability
                yield node.inputs[0].width
            case _:
                yield node.width


def _bytes_of(weight: Weight, learnt: Collection[str], size: int) -> int:
    """A float32 that is learnt serves both; one in fewer bits is there beside it."""
    if weight.name in learnt:
        return 4 if size == 4 or len(weight.shape) == 1 else 4 + size
    return 4 if len(weight.shape) == 1 else size


def _expanded(shape: Attention) -> int:
    """Numbers of a key and a value for every query head, with their gradients."""
    return 2 * shape.heads * (shape.key_size + shape.value_size)
