"""The model that learns: the engine that samples, and the same weights and adapter in a program that
keeps what the backward pass reads."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sampan.core.errors import OutOfMemory, SampanError, UnsupportedModel
from sampan.core.types import Completion, SamplingParams
from sampan.kernels.backend import PAGE, AdapterRoom, CacheSize
from sampan.kernels.graph import Graph, Node
from sampan.kernels.ops import Weight
from sampan.kernels.torch.backend import TorchWeights
from sampan.llm.load import graph_of
from sampan.llm.model import LLM
from sampan.train.backward import logprobs_of
from sampan.train.batch import Batch, Group
from sampan.train.engines import Engines, OwnEngine
from sampan.train.lora import TrainedAdapter
from sampan.train.trace import trace
from sampan.weights.checkpoint import open_checkpoint

_LACKING = {"experts", "per_head", "convolve", "delta", "given"}


class Student:
    """`llm`: loaded with room for an adapter of this rank at least. `rows`: tokens of a training step,
    which bound the memory of activations; `dtype`: of the weights that gradients go back through."""

    name = "in training"
    """Of the adapter, for requests to the engine."""
    before = "before the stage"
    """Of the adapter that `hold` was given."""

    def __init__(
        self, llm: LLM, adapter: TrainedAdapter, *, rows: int = 1024, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        self.llm, self.adapter, self.rows = llm, adapter, rows
        self.trace = trace(graph_of(llm.config))
        for node in self.trace.graph.nodes:
            if node.op in _LACKING:
                raise UnsupportedModel(f"{llm.files.name}: {node.label}: training has no {node.op} yet")
        self._stack = ExitStack()
        checkpoint = open_checkpoint(llm.files)
        for file in checkpoint.files.values():
            self._stack.callback(file.close)
        weights = TorchWeights(checkpoint, torch.device("cpu"))
        self.weights = {
            name: weights.tensor(weight, torch.float32 if len(weight.shape) == 1 else dtype)
            for name, weight in self.trace.graph.weights().items()
        }
        self._parts = {part.weight.name: part for part in adapter.parts}
        cache = CacheSize(-(-rows // PAGE) * 2, llm.plan.cache)
        room = AdapterRoom(1, adapter.rank)
        self._executable = llm.backend.compile(self.trace.graph, llm.weights, cache, rows, room, llm.tuning)
        self.engines: Engines = OwnEngine(llm, self.name)
        self.version = 0
        self.publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def publish(self) -> None:
        """Make the adapter's numbers what both the trainer and the engines compute with from now on."""
        self._executable.set_adapter(0, self.adapter)
        self.version += 1
        self.engines.publish(self.adapter, self.version)

    def sample(
        self, prompts: list[list[int]], sampling: Sequence[SamplingParams], n: int
    ) -> list[list[Completion]]:
        """See `rollout.Sampler`. Raises `SampanError` for answers of other numbers than those that were last
        published."""
        found = self.engines.generate(prompts, sampling, n)
        wrong = {sampled.version for sampled in found} - {self.version}
        if wrong:
            raise SampanError(f"answers of version {min(wrong)} came, and {self.version} was asked for")
        return [list(sampled.answers) for sampled in found]

    def hold(self, adapter: Path) -> None:
        """Make a saved adapter what the engine answers and scores with under the name `before`."""
        if self.before in self.llm.adapters:
            self.llm.unload_adapter(self.before)
        self.llm.load_adapter(self.before, adapter)

    def logprobs(self, groups: Sequence[Group]) -> Tensor:
        """Natural logarithms of the probabilities of every token of all continuations, in turn: the
        engine's own, to the bit, as a function of the adapter's numbers."""
        batch = Batch(tuple(groups))
        if batch.rows > self.rows:
            raise OutOfMemory(f"a training step of {batch.rows} tokens, and there is room for {self.rows}")
        rows = self._executable.run(batch.spans(slot=0))
        exact = np.asarray(rows.chosen, np.float64) - np.asarray(rows.log_totals, np.float64)
        taken = np.asarray(batch.taken)

        def kept(node: Node) -> Tensor:
            values = rows.kept(self.trace.names[node])
            return torch.from_numpy(np.array(values) if node.sampled else values[taken])

        return logprobs_of(self.trace, self.weights, batch, self._parts, kept, torch.from_numpy(exact))


def linears_of(graph: Graph, modules: Collection[str]) -> list[Weight]:
    """The weights that an adapter of these modules ("q_proj", "down_proj" …) changes."""
    return [
        part
        for node in graph.nodes
        if node.op == "linear"
        for part in node.detail.parts
        if part.name.split(".")[-2] in modules
    ]
