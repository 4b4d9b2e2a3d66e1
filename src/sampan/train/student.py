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
from sampan.core.memory import give_back_freed_memory
from sampan.core.types import Completion, SamplingParams
from sampan.kernels.backend import CacheSize
from sampan.kernels.graph import Graph, Node
from sampan.kernels.ops import Weight
from sampan.kernels.tensors import Floats
from sampan.kernels.torch.backend import TorchWeights
from sampan.llm.load import graph_of
from sampan.llm.model import LLM
from sampan.train.backward import logprobs_of
from sampan.train.batch import ROWS_OF_A_PAGE, Batch, Group
from sampan.train.engines import Engines, OwnEngine
from sampan.train.head import Judged
from sampan.train.memory import Training, needed
from sampan.train.precision import quick_dtype
from sampan.train.trace import trace
from sampan.train.trained import Trained
from sampan.weights.checkpoint import open_checkpoint

_LACKING = {"experts", "per_head", "convolve", "delta", "given"}


class Student:
    """`llm`: loaded with room for an adapter of this rank at least, or in floats where its weights are
    trained. `rows`: tokens of a training step, which bound the memory of activations; `dtype`: of the weights
    that gradients go back through, if not `quick_dtype`. `memory`: what all of it takes. Raises `OutOfMemory`
    where that is not there."""

    before = "before the stage"
    """Of the adapter that `hold` was given."""

    def __init__(
        self, llm: LLM, trained: Trained, *, rows: int = 1024, dtype: torch.dtype | None = None
    ) -> None:
        dtype = dtype or quick_dtype()
        self.llm, self.trained, self.rows, self.dtype = llm, trained, rows, dtype
        self.trace = trace(graph_of(llm.config))
        for node in self.trace.graph.nodes:
            if node.op in _LACKING:
                raise UnsupportedModel(f"{llm.files.name}: {node.label}: training has no {node.op} yet")
        cache = CacheSize(-(-rows // ROWS_OF_A_PAGE), llm.plan.cache)
        self.memory = self._memory(cache, dtype)
        self.memory.check()
        self._stack = ExitStack()
        self.weights = self._through(dtype)
        give_back_freed_memory()  # of numbers as the file has them
        self._executable = llm.backend.compile(
            self.trace.graph, llm.weights, cache, rows, trained.room, llm.tuning
        )
        self.engines: Engines = OwnEngine(llm, trained.name)
        self.publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def name(self) -> str | None:
        """Of the adapter, for requests to the engine."""
        return self.trained.name

    def publish(self) -> None:
        """Make the numbers in training what the trainer and all engines compute with from now on."""
        self.version = self.trained.publish(self.llm, self._executable)
        for name, master in self.trained.learnt.items():
            if self.weights[name].dtype != master.dtype:
                self.weights[name].copy_(master.detach())
        self.engines.publish(self.trained, self.version)

    def hold(self, adapter: Path) -> None:
        """Make a saved adapter what the engine answers and scores with under the name `before`."""
        if self.before in self.llm.adapters:
            self.llm.unload_adapter(self.before)
        self.llm.load_adapter(self.before, adapter)

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

    def logprobs(self, groups: Sequence[Group]) -> Tensor:
        """Natural logarithms of the probabilities of every token of all continuations, in turn: the
        engine's own, to the bit, as a function of the adapter's numbers."""
        return self.judged(groups, 1.0)[0]

    def judged(self, groups: Sequence[Group], temperature: float) -> tuple[Tensor, Tensor]:
        """The same of the distribution that is drawn from at a temperature, and its entropy in each place in
        nats, as it is."""
        batch = Batch(tuple(groups))
        if batch.rows > self.rows:
            raise OutOfMemory(f"a training step of {batch.rows} tokens, and there is room for {self.rows}")
        before = self._prompts(batch)
        rows = self._executable.run(batch.spans(self.trained.slot))
        of_prompts, (of_others, taken) = batch.of_prompts, batch.of_continuations

        def kept(node: Node) -> Tensor:
            values = rows.kept(self.trace.names[node])
            if node.sampled:
                return torch.from_numpy(np.array(values))
            found = np.empty((len(batch.ids), node.width), np.float32)
            if of_prompts:
                found[of_prompts] = before.pop(node)
            found[of_others] = values[taken]
            return torch.from_numpy(found)

        low_ranks, learnt = self.trained.low_ranks, self.trained.learnt
        judged = Judged.of(rows, batch.targets, temperature)
        return logprobs_of(self.trace, self.weights, batch, low_ranks, kept, judged, learnt)

    def _prompts(self, batch: Batch) -> dict[Node, Floats]:
        """Compute the prompts, and make their last pages the beginning of every continuation's own; returns
        what was kept of their rows."""
        spans = batch.prompts(self.trained.slot)
        if not spans:
            return {}
        rows = self._executable.run(spans)
        self._executable.copy_pages(batch.copies)
        names = self.trace.names.items()
        return {node: np.array(rows.kept(name)) for node, name in names if not node.sampled}

    def _memory(self, cache: CacheSize, dtype: torch.dtype) -> Training:
        llm, trained = self.llm, self.trained
        needs = llm.backend.needs(self.trace.graph, llm.weights.tensors, self.rows, trained.room)
        kernels = needs.workspace + needs.adapters + cache.pages * needs.page[cache.dtype]
        kernels += self.rows * needs.logits
        adapted = 0 if trained.learnt else sum(each.numel() for each in trained.parameters)
        return needed(
            self.trace, trained.learnt.keys(), adapted, self.rows, llm.context, kernels, dtype.itemsize
        )

    def _through(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The weights that gradients go back through: those in training themselves, or rounded copies of
        them, and the others from the file."""
        checkpoint = open_checkpoint(self.llm.files)
        for file in checkpoint.files.values():
            self._stack.callback(file.close)
        placed = TorchWeights(checkpoint, torch.device("cpu"))

        def one(weight: Weight) -> Tensor:
            master = self.trained.learnt.get(weight.name)
            vector = len(weight.shape) == 1
            if master is None:
                return placed.tensor(weight, torch.float32 if vector else dtype)
            if vector:
                return master
            return master.detach() if dtype == master.dtype else torch.empty(weight.shape, dtype=dtype)

        return {name: one(weight) for name, weight in self.trace.graph.weights().items()}


def linears_of(graph: Graph, modules: Collection[str]) -> list[Weight]:
    """The weights that an adapter of these modules ("q_proj", "down_proj" …) changes."""
    return [
        part
        for node in graph.nodes
        if node.op == "linear"
        for part in node.detail.parts
        if part.name.split(".")[-2] in modules
    ]
