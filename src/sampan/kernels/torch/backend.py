"""PyTorch as a backend: any device that it knows, from the same graphs as the native kernels.

Importing this module imports torch, which the base install does not have.
"""

from collections.abc import Callable
from typing import Any

from sampan.core.errors import UnsupportedModel, UsageError, quoted
from sampan.kernels.backend import AdapterRoom, CacheSize, Needs, Notice, Tuning
from sampan.kernels.experts import ExpertRoom
from sampan.kernels.formats import TensorType
from sampan.kernels.graph import Graph
from sampan.kernels.ops import Weight
from sampan.kernels.tensors import Tensors

try:
    import torch
except ImportError as error:
    said = "backend torch needs PyTorch: install the extra `train` (pip install 'sampan[train]')"
    raise UsageError(said) from error

from sampan.kernels.torch.cache import DTYPES
from sampan.kernels.torch.device import device_named, on_device, room_for
from sampan.kernels.torch.executable import Sizes, TorchProgram
from sampan.kernels.torch.needs import needs_of
from sampan.kernels.torch.ops import OPERATIONS

_HALVES = {TensorType.F16, TensorType.BF16}


class TorchBackend:
    """See `backend.Backend`. `device`: as torch writes it; `threads`: of torch on the CPU, every core unless
    given; `dtype`: of weights and activations, "f32" or "bf16".

    Unless `dtype` is given they are float32 on the CPU. Elsewhere they are bfloat16 where every matrix of the
    file has 16 bits, otherwise float32.
    """

    name = "torch"
    exact = False

    def __init__(self, device: str = "cpu", threads: int | None = None, dtype: str | None = None) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise UsageError(f"dtype is {quoted(dtype)}: {' and '.join(DTYPES)} are there")
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}: give a whole number, 1 or more")
        self.device, self.dtype = device_named(device), dtype
        if threads is not None:
            torch.set_num_threads(threads)

    @property
    def threads(self) -> int:
        """Of the host."""
        return torch.get_num_threads()

    def check(self, graph: Graph, where: str) -> None:
        """`UnsupportedModel` for an operation that is not there."""
        for node in graph.nodes:
            if node.op not in OPERATIONS:
                raise UnsupportedModel(f"{where}: {node.label}: the torch backend has no {node.op}")

    def needs(
        self, graph: Graph, tensors: Tensors, max_rows: int, room: AdapterRoom | None = None,
        experts: ExpertRoom | None = None,
    ) -> Needs:  # fmt: skip
        """Bytes of weights, pages and logits, exactly; of the workspace an upper bound (see `needs.py`)."""
        if experts:
            raise UnsupportedModel(
                f"{tensors.where}: backend torch keeps all experts in memory: leave expert_memory out, or "
                "use backend cpu"
            )
        return needs_of(graph, self._dtype(graph, tensors), self.device, max_rows, room)

    def place(
        self, tensors: Tensors, _weights_bytes: int | None = None, _experts: ExpertRoom | None = None
    ) -> "TorchWeights":
        """Tensors on the device, each read once."""
        return TorchWeights(tensors, self.device)

    def tune(
        self, _first: Callable[[int], Graph], _layers: int, _weights: Any, _cache: CacheSize, *,
        name: str, memory: int | None, notice: Notice,  # noqa: ARG002
    ) -> Tuning:  # fmt: skip
        """Nothing is measured, and nothing is drafted: a draft's rows need not round as one row does."""
        return Tuning(threads=self.threads, draft_rows=0)

    def compile(
        self, graph: Graph, weights: "TorchWeights", cache: CacheSize, max_rows: int,
        room: AdapterRoom | None = None, _chosen: Tuning | None = None,
    ) -> TorchProgram:  # fmt: skip
        """The graph on these weights, with an empty cache."""
        if cache.dtype not in DTYPES:
            there = " and ".join(DTYPES)
            raise UsageError(f"a cache of type {quoted(cache.dtype)}: the torch backend has {there}")
        dtype = self._dtype(graph, weights.tensors)
        placed = {name: weights.tensor(weight, dtype) for name, weight in graph.weights().items()}
        workspace = needs_of(graph, dtype, self.device, max_rows, room).workspace
        return TorchProgram(graph, placed, Sizes(cache, max_rows, workspace, room), self.device)

    def _dtype(self, graph: Graph, tensors: Tensors) -> torch.dtype:
        matrices = [name for name, weight in graph.weights().items() if len(weight.shape) == 2]
        packed = next((name for name in matrices if name in tensors.packed), None)
        if packed is not None:
            raise UnsupportedModel(
                f"{tensors.where}: tensor {packed} is packed for the native kernels and has no values to "
                "read: take the model that it was made from, or backend cpu"
            )
        if self.dtype is not None:
            return DTYPES[self.dtype]
        halves = all(tensors.info(name).type in _HALVES for name in matrices)
        return torch.bfloat16 if halves and self.device.type != "cpu" else torch.float32


class TorchWeights:
    """A checkpoint's tensors on a device, each placed once for all graphs that use it."""

    def __init__(self, tensors: Tensors, device: torch.device) -> None:
        self.tensors = tensors
        self._device = device
        self._placed: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def tensor(self, weight: Weight, dtype: torch.dtype) -> torch.Tensor:
        """One of them. Raises `OutOfMemory` where the device has no room."""
        key = weight.name, dtype
        if key not in self._placed:
            with room_for(f"tensor {weight.name}", self._device):
                self._placed[key] = on_device(self.tensors.array(weight.name), self._device, dtype)
            self.tensors.release(weight.name)
        return self._placed[key]
