"""What a graph becomes for the native core: instructions, and the memory that they work on.

A plan is made without weights or memory, and says exactly what both will take.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from sampan.kernels.backend import AdapterRoom
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.layout import Segment
from sampan.kernels.cpu.machine import Operand, padded
from sampan.kernels.cpu.storage import Region
from sampan.kernels.cpu.stored import StoredLayer
from sampan.kernels.ops import Attention, Norm, Rope, Router, State, Weight


class Place(NamedTuple):
    """Features of a float buffer from `offset` on."""

    buffer: int
    offset: int


@dataclass(frozen=True)
class Buffer:
    """[rows, width] floats."""

    region: Region
    width: int
    rows: int


@dataclass(frozen=True)
class Activations:
    """Rows as products read them."""

    region: Region
    inputs: int
    operand: Operand
    rows: int


@dataclass(frozen=True)
class Angles:
    """Cosines and sines of a rotation."""

    region: Region
    rope: Rope


class Turning(NamedTuple):
    """What happens to heads: a norm, angles by index (-1: none) and where they apply, and a scale."""

    norm: Norm | None = None
    table: int = -1
    first: int = 0
    interleaved: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Bias:
    """Of a segment of a linear: `parts` start at these features of it."""

    parts: tuple[tuple[int, Weight], ...]
    size: int


@dataclass(frozen=True)
class Instruction:
    """`op` with its fields by name, as the native program takes them; weights stand for their numbers.

    `steps`: all, those with adapters ("adapted") or those without ("plain"). `label`: what it computes, for
    faults.
    """

    op: str
    fields: Mapping[str, Any]
    label: str
    steps: str = "all"


@dataclass(frozen=True)
class Output:
    """Where a kept value lies."""

    place: Place
    width: int
    sampled: bool


@dataclass
class Plan:
    """`norms`: labels of the norms, by mark. `sites`: the number of each weight that can be adapted.

    `bytes`: of all regions together. `segments`: every packed matrix once, by its first part's name.
    """

    rows: int
    room: AdapterRoom | None
    buffers: list[Buffer] = field(default_factory=list)
    activations: list[Activations] = field(default_factory=list)
    angles: list[Angles] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    sites: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, Output] = field(default_factory=dict)
    given: Output | None = None
    """Where a step finds what it is given beside its tokens."""
    routers: list[Router] = field(default_factory=list)
    attentions: tuple[Attention, ...] = ()
    states: tuple[State, ...] = ()
    vocabulary: int = 0
    segments: dict[str, Segment] = field(default_factory=dict)
    stored: list[StoredLayer] = field(default_factory=list)
    """Experts that stay on disk, which `segments` does not have."""
    expert_slots: int = 0
    """Those that are in memory at once, of `expert_bytes` each."""
    expert_bytes: int = 0
    vectors: dict[str, Weight] = field(default_factory=dict)
    adapted: int = 0
    """Numbers of A and B together, for each of an adapter's rank, of all that can be adapted but experts."""
    adapted_parts: int = 0
    """The most parts of a linear that can be adapted."""
    turned: set[str] = field(default_factory=set)
    """Weights that can be adapted and whose products read them transposed."""
    adapted_rows: int = 0
    """The most slots of experts that can be adapted."""
    longest: int = 0
    """The most inputs of a product."""
    bytes: int = 0

    def workspace(self, threads: int) -> int:
        """Bytes that the program allocates for steps, without logits."""
        scratch = int(_native.linear_scratch(self.longest)) if self.longest else 0
        scratch += max(
            (int(_native.attend_scratch(a.key_size, a.value_size, a.latent)) for a in self.attentions),
            default=0,
        )
        scratch += int(_native.head_scratch(padded(self.vocabulary))) if self.vocabulary else 0
        inner = (
            4 * self.adapted_parts * max(self.rows, self.adapted_rows) * padded(self.room.rank)
            if self.room
            else 0
        )
        return self.bytes + threads * scratch + inner

    @property
    def adapter_bytes(self) -> int:
        """Of the matrices of all adapters that there is room for, at the highest rank. Few adapters have any
        for experts, of which there are many: those are counted when one is loaded."""
        if self.room is None:
            return 0
        return 4 * self.room.count * padded(self.room.rank) * self.adapted

    def page_bytes(self, cache: str) -> int:
        """One page in all layers."""
        runs = (
            _native.run_bytes(cache, a.kv_heads, a.key_size, a.value_size, a.latent) for a in self.attentions
        )
        return int(sum(runs)) // int(_native.RUN)

    @property
    def state_floats(self) -> int:
        """What a sequence carries besides its pages."""
        return sum(map(floats_of, self.states))

    @property
    def weight_bytes(self) -> int:
        """Of all packed matrices and vectors, and of the memory that experts are read into."""
        return sum(self.parts.values()) + self.expert_slots * self.expert_bytes

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each packed matrix and vector."""
        vectors = {name: 4 * prod(whole(weight)) for name, weight in self.vectors.items()}
        return vectors | {name: segment.nbytes for name, segment in self.segments.items()}


def whole(weight: Weight) -> tuple[int, ...]:
    """The shape of what is no matrix of products, as it is kept: the channels of a convolution in whole
    vectors."""
    channels, *taps = weight.shape
    return (padded(channels), *taps) if taps else weight.shape


def floats_of(state: State) -> int:
    """Of what a sequence carries, its features in whole vectors."""
    many, *sizes = state.state
    return many * prod(map(padded, sizes))
