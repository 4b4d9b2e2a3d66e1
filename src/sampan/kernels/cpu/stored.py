"""Experts that stay on disk: what lies where in their file, and what a plan needs of it.

An expert is its matrices one after another, each from a multiple of 64 bytes on, in whole blocks of the file:
one aligned read brings it. `expert_file.py` writes such files; a folder of packed weights is one already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sampan.core.errors import OutOfMemory, UsageError
from sampan.core.memory import megabytes
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.layout import Segment
from sampan.kernels.experts import ExpertReads, ExpertRoom
from sampan.kernels.formats import ALIGNMENT
from sampan.kernels.tensors import Tensors

BLOCK: int = _native.DISK_BLOCK


class StoredMatrix(NamedTuple):
    """One of the matrices that every expert of a layer has: `offset` bytes behind an expert's first."""

    layer: int
    offset: int
    segment: Segment


@dataclass(frozen=True)
class StoredLayer:
    """The experts of one layer, of which a token goes through `chosen`. `experts`: the matrices of each, in
    the order in which they lie; all experts are alike."""

    label: str
    experts: tuple[tuple[Segment, ...], ...]
    chosen: int

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where an expert's matrices begin."""
        found, at = [], 0
        for segment in self.experts[0]:
            found.append(at)
            at += _stored(segment)
        return tuple(found)

    @property
    def nbytes(self) -> int:
        """Of an expert: up to the end of its last matrix."""
        return self.offsets[-1] + self.experts[0][-1].nbytes


class Record(NamedTuple):
    """`bytes` of the file from `offset` on, whole blocks, of which an expert's own are those from `base` to
    `end`."""

    offset: int
    bytes: int
    base: int
    end: int

    @classmethod
    def around(cls, start: int, nbytes: int) -> "Record":
        """The blocks that hold these bytes."""
        offset = start // BLOCK * BLOCK
        base, end = start - offset, start - offset + nbytes
        return cls(offset, -(-end // BLOCK) * BLOCK, base, end)


@dataclass(frozen=True)
class ExpertStore:
    """`native`: what reads, by `labels` of layers; `slots` experts are in memory at once, of `bytes_each`."""

    native: Any
    labels: tuple[str, ...]
    slots: int
    bytes_each: int

    def reads(self) -> ExpertReads:
        """Since the start."""
        counts = self.native.counts()
        return ExpertReads(slots=self.slots, bytes_each=self.bytes_each, direct=self.native.direct, **counts)


def in_place(layers: Sequence[StoredLayer], tensors: Tensors) -> list[list[Record]] | None:
    """Where experts lie in a folder of packed weights; None where their matrices do not lie together."""
    found: list[list[Record]] = []
    for layer in layers:
        records = []
        for segments in layer.experts:
            names = [segment.parts[0].name for segment in segments]
            if not all(name in tensors.packed for name in names):
                return None
            places = [tensors.info(name).offset for name in names]
            if [place - places[0] for place in places] != list(layer.offsets):
                return None
            records.append(Record.around(places[0], layer.nbytes))
        found.append(records)
    return found


def written(layers: Sequence[StoredLayer], start: int) -> list[list[Record]]:
    """Where experts lie in a file of their own, one after another from `start` on."""
    found: list[list[Record]] = []
    for layer in layers:
        records = []
        for _ in layer.experts:
            records.append(Record.around(start, layer.nbytes))
            start += records[-1].bytes
        found.append(records)
    return found


def slots_of(layers: Sequence[StoredLayer], room: ExpertRoom, tensors: Tensors) -> tuple[int, int]:
    """How many experts the memory holds, and the bytes that each takes there.

    Raises `UsageError` where there are no experts, and `OutOfMemory` with the number where one token's find
    no room.
    """
    if not layers:
        raise UsageError(
            f"{tensors.where}: expert_memory is given, and the model has no experts: leave it out"
        )
    records = in_place(layers, tensors) or written(layers, 0)
    each = max(record.bytes for layer in records for record in layer)
    slots = min(room.memory // each, sum(len(layer.experts) for layer in layers))
    needed = sum(layer.chosen for layer in layers)
    if slots < needed:
        least = needed * each
        raise OutOfMemory(
            f"{tensors.where}: expert_memory is {megabytes(room.memory)}, and one token goes through "
            f"{needed} experts in {len(layers)} layers, {least} bytes: allow {-(-least // 10**6)}MB"
        )
    return slots, each


def _stored(segment: Segment) -> int:
    return -(-segment.nbytes // ALIGNMENT) * ALIGNMENT
