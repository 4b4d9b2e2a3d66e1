"""Steps of a graph on a device, eagerly: paged cache, batches, adapters, kept values.

A row's logits are those of the native kernels up to rounding, but a device's products round a row one way
alone and another in company: the bits of an answer may depend on what runs beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sampan.core.errors import RequestError, WeightsError, quoted
from sampan.kernels.backend import Adapter, CacheSize, Floats, NewValues, Span
from sampan.kernels.graph import LOGITS, Graph, Node
from sampan.kernels.torch.cache import PagedCache
from sampan.kernels.torch.ops import LowRanks, Step, evaluate

_ROWS = 2**22  # values of a tensor that are written at a time


@dataclass
class TorchRows:
    """See `backend.Rows`. `outputs`: on the device, by name."""

    outputs: Mapping[str, Tensor]
    unsound: Mapping[int, str]

    @cached_property
    def logits(self) -> Floats:
        """[S, vocabulary]."""
        return self.kept(LOGITS)

    @cached_property
    def log_totals(self) -> list[float]:
        """Of each row."""
        totals: list[float] = torch.logsumexp(torch.from_numpy(self.logits).double(), -1).tolist()
        return totals

    @cached_property
    def best(self) -> list[int]:
        """Of each row."""
        best: list[int] = self.logits.argmax(-1).tolist()
        return best

    @cached_property
    def logprobs(self) -> list[float]:
        """Of the best tokens."""
        tops = self.logits.max(-1, initial=-np.inf).astype(np.float64)
        return [float(top) - total for top, total in zip(tops, self.log_totals, strict=True)]

    def kept(self, name: str) -> Floats:
        """[S, width], or [T, width]."""
        values: Floats = self.outputs[name].float().cpu().numpy()
        return values


class TorchProgram:
    """See `backend.Executable`. `weights`: by name, on the device."""

    def __init__(
        self, graph: Graph, weights: dict[str, Tensor], cache: CacheSize, max_rows: int, workspace: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.graph, self.weights, self.device = graph, weights, device
        self.max_rows, self.workspace_bytes = max_rows, workspace
        self._cache = PagedCache(graph.attentions(), cache.pages, cache.dtype, device)
        self._adapters: dict[int, LowRanks] = {}

    @torch.inference_mode()
    def run(self, spans: Sequence[Span]) -> TorchRows:
        """One step."""
        step = self._step(spans)
        outputs = evaluate(self.graph, self.weights, step)
        return TorchRows(outputs, self._unsound(outputs, step))

    @torch.inference_mode()
    def update(self, values: NewValues) -> None:
        """New values for weights: all of them, or none where an error is raised."""
        for name, shape in values.shapes.items():
            if name not in self.weights:
                raise WeightsError(f"{values.where}: tensor {quoted(name)} has no place in the model")
            own = tuple(self.weights[name].shape)
            if shape != own:
                said = f"has shape {quoted(list(shape))}, the model's is {list(own)}"
                raise WeightsError(f"{values.where}: tensor {name} {said}")
            for start, stop in _blocks(shape):
                if not np.isfinite(values.rows(name, start, stop)).all():
                    raise WeightsError(
                        f"{values.where}: tensor {name} holds values that are not finite numbers"
                    )
        for name, shape in values.shapes.items():
            for start, stop in _blocks(shape):
                self.weights[name][start:stop] = torch.from_numpy(values.rows(name, start, stop)).to(
                    self.device
                )

    def set_adapter(self, slot: int, adapter: Adapter) -> None:
        """Make an adapter what rows of this slot use."""

        def placed(part: Floats, like: Tensor) -> Tensor:
            return torch.from_numpy(part).to(self.device, like.dtype)

        found = {}
        for part in adapter.parts:
            weight = self.weights[part.weight.name]
            found[part.weight.name] = placed(part.a(), weight), placed(part.b(), weight)
        self._adapters[slot] = found

    def clear_adapter(self, slot: int) -> None:
        """Free a slot."""
        self._adapters.pop(slot, None)

    def _step(self, spans: Sequence[Span]) -> Step:
        ids = [token for span in spans for token in span.ids]
        if len(ids) > self.max_rows:
            raise RequestError(f"a step of {len(ids)} tokens: {self.max_rows} at most")
        positions = [span.before + place for span in spans for place in range(len(span.ids))]
        slots = np.array([span.slot for span in spans for _ in span.ids])
        sampled: list[int] = []
        first = 0
        for span in spans:
            first += len(span.ids)
            sampled += range(first - span.sampled, first)
        index = self._cache.index
        chosen = [slot for slot in sorted(set(slots.tolist())) if self._adapters.get(slot)]
        adapters = [(index(slots) == slot, self._adapters[slot]) for slot in chosen]
        attend = self._cache.step(spans).attend
        given = [index(np.array(values, np.int64)) for values in (ids, positions, sampled)]
        return Step(given[0], given[1], given[2], attend, adapters)

    def _unsound(self, outputs: Mapping[str, Tensor], step: Step) -> dict[int, str]:
        """Sampled rows that are not finite. Where that was first seen is told by the same step again."""
        wrong: set[int] = set()
        for node, values in zip(self.graph.outputs.values(), outputs.values(), strict=True):
            if node.sampled:
                wrong |= set((~torch.isfinite(values).all(-1)).nonzero()[:, 0].tolist())
        if not wrong:
            return {}
        seen: dict[int, str] = {}

        def watch(node: Node, x: Tensor) -> None:
            for row in (~torch.isfinite(x).all(-1)).nonzero()[:, 0].tolist():
                for place in wrong:
                    if row == (place if node.sampled else int(step.sampled[place])):
                        seen.setdefault(place, f"before {node.detail.weight.name.removesuffix('.weight')}")

        evaluate(self.graph, self.weights, step, watch)
        return {row: seen.get(row, "in the head") for row in sorted(wrong)}


def _blocks(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows [start, stop) of a tensor, some at a time."""
    step = max(1, _ROWS // int(np.prod(shape[1:], dtype=np.int64)))
    return [(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]
