"""Steps of a graph on a device, eagerly: paged cache, batches, adapters, kept values.

What is promised: a row's logits are those of the native kernels up to rounding, whatever runs beside it and
however its prompt was cut. Not promised: its bits. A device's products round a row one way alone and another
in company, so that two tokens which are nearly as probable may change places.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sampan.core.errors import WeightsError, quoted
from sampan.kernels.backend import PAGE, Adapter, AdapterRoom, CacheSize, NewValues, Span
from sampan.kernels.experts import ExpertReads
from sampan.kernels.graph import LOGITS, Graph, Node
from sampan.kernels.torch.cache import PagedCache
from sampan.kernels.torch.device import on_device, room_for
from sampan.kernels.torch.ops import Adapted, LowRanks, Step, evaluate
from sampan.kernels.torch.rows import TorchRows, unsound_rows
from sampan.kernels.torch.states import StateSlots

_ROWS = 2**22  # values of a tensor that are written at a time


class Sizes(NamedTuple):
    """What an executable was made for. `workspace`: bytes, as `needs` said."""

    cache: CacheSize
    max_rows: int
    workspace: int
    room: AdapterRoom | None


class TorchProgram:
    """See `backend.Executable`. `weights`: by name, on the device."""

    def __init__(self, graph: Graph, weights: dict[str, Tensor], sizes: Sizes, device: torch.device) -> None:
        self.graph, self.weights, self.device = graph, weights, device
        self.outputs = graph.outputs.keys()
        self.max_rows, self.workspace_bytes = sizes.max_rows, sizes.workspace
        self._slots = sizes.room.count if sizes.room else 0
        with room_for(f"a cache of {sizes.cache.pages * PAGE} tokens", device):
            self._cache = PagedCache(graph.attentions(), sizes.cache.pages, sizes.cache.dtype, device)
            self._states = StateSlots(graph.states(), sizes.cache.states, device)
        self._adapters: dict[int, LowRanks] = {}
        tables = [node.detail.shape[0] for node in graph.nodes if node.op == "embed"]
        self._vocabulary = min(tables, default=2**31)
        self._width = 0 if graph.given is None else graph.given.width
        self._sampled = {name for name, node in graph.outputs.items() if node.sampled}

    @property
    def takes_targets(self) -> bool:
        """The logits of a step are held, all of them."""
        return False

    @property
    def expert_reads(self) -> ExpertReads | None:
        """All experts are in memory."""
        return None

    @torch.inference_mode()
    def run(self, spans: Sequence[Span]) -> TorchRows:
        """One step. Raises `OutOfMemory` where it finds no room, ValueError for spans that make no sense."""
        self._check(spans)
        with room_for(f"a step of {sum(len(span.ids) for span in spans)} tokens", self.device):
            step = self._step(spans)
            outputs = evaluate(self.graph, self.weights, step)
            if LOGITS in outputs:
                outputs[LOGITS] = outputs[LOGITS].float()
            wrong = unsound_rows(outputs, self._sampled)
            return TorchRows(outputs, self._first_seen(wrong, step) if wrong else {})

    @torch.inference_mode()
    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Make the second page of each pair what the first is."""
        for page in (page for pair in pairs for page in pair):
            _require(0 <= page < self._cache.pages, "page outside the cache")
        self._cache.copy(pairs)

    @torch.inference_mode()
    def update(self, values: NewValues) -> None:
        """New values for weights: all of them, or none where an error is raised."""
        for name, shape in values.shapes.items():
            if name not in self.weights:
                raise WeightsError(f"{values.where}: tensor {quoted(name)} has no place in the model")
            own = tuple(self.weights[name].shape)
            if tuple(shape) != own:
                said = f"has shape {quoted(list(shape))}, the model's is {list(own)}"
                raise WeightsError(f"{values.where}: tensor {name} {said}")
            for start, stop in _blocks(own):
                if not np.isfinite(values.rows(name, start, stop)).all():
                    said = "holds values that are not finite numbers"
                    raise WeightsError(f"{values.where}: tensor {name} {said}")
        for name in values.shapes:
            weight = self.weights[name]
            for start, stop in _blocks(tuple(weight.shape)):
                weight[start:stop] = on_device(values.rows(name, start, stop), self.device, weight.dtype)

    def adapter_bytes(self, adapter: Adapter) -> int:
        """What an adapter takes."""
        sizes = {part.key: part.rank * part.weight.shape[1] for part in adapter.parts}
        sizes |= {part.weight.name: part.weight.shape[0] * part.rank for part in adapter.parts}
        return sum(sizes.values()) * max(weight.dtype.itemsize for weight in self.weights.values())

    def set_adapter(self, slot: int, adapter: Adapter) -> None:
        """Make an adapter what rows of this slot use. Raises `OutOfMemory` where there is no room."""
        self._check_slot(slot, least=0)
        shared: dict[str, Tensor] = {}
        found: dict[str, tuple[Tensor, Tensor]] = {}
        with room_for(f"the adapter {adapter.where}", self.device):
            for part in adapter.parts:
                dtype = self.weights[part.weight.name].dtype
                if part.key not in shared:
                    shared[part.key] = on_device(part.a(), self.device, dtype)
                found[part.weight.name] = shared[part.key], on_device(part.b(), self.device, dtype)
        self._adapters[slot] = found

    def clear_adapter(self, slot: int) -> None:
        """Free a slot."""
        self._check_slot(slot, least=0)
        self._adapters.pop(slot, None)

    def _check(self, spans: Sequence[Span]) -> None:
        """What would read or write elsewhere, or end a device's process, is refused at the door."""
        rows = sum(len(span.ids) for span in spans)
        _require(0 < rows <= self.max_rows, f"{rows} rows, from 1 to {self.max_rows} have room")
        self._states.check(spans, _require)
        for span in spans:
            _require(len(span.ids) > 0 and span.before >= 0, "a span without tokens, or that begins before 0")
            _require(0 <= span.sampled <= len(span.ids), "more sampled rows than rows")
            self._check_slot(span.slot, least=-1)
            known = min(span.ids) >= 0 and max(span.ids) < self._vocabulary
            _require(known, "token id outside the vocabulary")
            used = -(-(span.before + len(span.ids)) // PAGE)
            _require(used <= len(span.pages), "a span reaches past its pages")
            pages = np.frombuffer(span.pages, np.int32)[:used]
            _require(0 <= int(pages.min()) <= int(pages.max()) < self._cache.pages, "page outside the cache")

    def _check_slot(self, slot: int, least: int) -> None:
        _require(least <= slot < self._slots, f"adapter slot {slot}, and there are {self._slots}")

    def _step(self, spans: Sequence[Span]) -> Step:
        ids = [token for span in spans for token in span.ids]
        positions = [span.before + place for span in spans for place in range(len(span.ids))]
        sampled: list[int] = []
        first = 0
        for span in spans:
            first += len(span.ids)
            sampled += range(first - span.sampled, first)
        index, attend = self._cache.index, self._cache.step(spans).attend
        adapters = list(self._adapted(spans, sampled))
        given = self._given(spans) if self._width else None
        carry = self._states.step(spans)
        return Step(index(ids), torch.tensor(positions), index(sampled), attend, carry, adapters, given)

    def _given(self, spans: Sequence[Span]) -> Tensor:
        """What the model reads beside tokens [T, width]."""
        dtype = next(weight.dtype for weight in self.weights.values())
        values = np.concatenate([span.given for span in spans])
        shape = sum(len(span.ids) for span in spans), self._width
        _require(values.shape == shape, f"{values.shape} floats are given, of {shape} that are read")
        return on_device(values, self.device, dtype)

    def _adapted(self, spans: Sequence[Span], sampled: list[int]) -> Iterator[Adapted]:
        slots = np.repeat([span.slot for span in spans], [len(span.ids) for span in spans])
        taken = slots[sampled]
        for slot in np.unique(slots).tolist():
            if slot in self._adapters:
                rows, of_sample = np.flatnonzero(slots == slot), np.flatnonzero(taken == slot)
                yield Adapted(self._cache.index(rows), self._cache.index(of_sample), self._adapters[slot])

    def _first_seen(self, wrong: list[int], step: Step) -> Mapping[int, str]:
        """Where these sampled rows stopped being finite, by the same step again."""
        seen: dict[int, str] = {}

        def watch(node: Node, x: Tensor) -> None:
            broken = set((~torch.isfinite(x).all(-1)).nonzero()[:, 0].tolist())
            for row in wrong:
                if (row if node.sampled else int(step.sampled[row])) in broken:
                    seen.setdefault(row, f"before {node.detail.weight.name.removesuffix('.weight')}")

        evaluate(self.graph, self.weights, step, watch)
        return {row: seen.get(row, "in the head") for row in wrong}


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(f"run: {problem}")


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Rows [start, stop) of a tensor, some at a time."""
    step = max(1, _ROWS // max(1, prod(shape[1:])))
    yield from ((start, min(start + step, shape[0])) for start in range(0, shape[0], step))
