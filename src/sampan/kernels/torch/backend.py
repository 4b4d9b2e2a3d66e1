"""PyTorch as a backend: any device that it knows, from the same graphs as the native kernels.

Importing this module imports torch, which the base install does not have.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

from sampan.core.errors import UnsupportedModel, UsageError, quoted
from sampan.kernels.backend import PAGE, AdapterRoom, CacheSize, Needs, Notice, Tensors, Tuning
from sampan.kernels.formats import TensorType
from sampan.kernels.graph import Graph, Node
from sampan.kernels.ops import Linear, Norm, Weight

try:
    import torch
except ImportError as error:
    raise UsageError("backend torch needs PyTorch: install the extra `train` (sampan[train])") from error

from sampan.kernels.torch.cache import DTYPES, SCORES
from sampan.kernels.torch.executable import TorchProgram
from sampan.kernels.torch.ops import Walk


class TorchBackend:
    """See `backend.Backend`. `device`: as torch writes it; `threads`: of torch on the CPU, every core unless
    given.

    Weights are float32 on the CPU. Elsewhere they are bfloat16, but for a checkpoint of float32.
    """

    name = "torch"

    def __init__(self, device: str = "cpu", threads: int | None = None) -> None:
        self.device = _device(device)
        if threads is not None:
            torch.set_num_threads(threads)

    @property
    def threads(self) -> int:
        """Of the host."""
        return torch.get_num_threads()

    def check(self, graph: Graph, where: str) -> None:
        """`UnsupportedModel` for an operation that is not there."""
        for node in graph.nodes:
            if not hasattr(Walk, node.op):
                raise UnsupportedModel(f"{where}: {node.label}: the torch backend has no {node.op}")

    def needs(self, graph: Graph, tensors: Tensors, max_rows: int, room: AdapterRoom | None = None) -> Needs:
        """Bytes of weights and pages; the workspace is what the values of a step take at most, as torch
        keeps them, and the scores of an attention."""
        weights = weights_of(graph)
        size = self._dtype(tensors, weights).itemsize
        elements = sum(_count(weight) for weight in weights.values())
        heads = [(a.kv_heads, a.key_size + a.value_size) for a in graph.attentions()]
        token = sum(count * features for count, features in heads)
        head = max((node.width for node in graph.nodes if node.op == "head"), default=0)
        return Needs(
            weights=elements * size,
            workspace=_workspace(graph, max_rows) * max(size, 4) + 3 * SCORES * 4,
            logits=4 * head,
            page={name: PAGE * token * dtype.itemsize for name, dtype in DTYPES.items()},
            dtype="f32" if size == 4 else "bf16",
            adapters=_adapters(graph, room) * size,
        )

    def place(self, tensors: Tensors, _weights_bytes: int | None = None) -> "TorchWeights":
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
        needed = weights_of(graph)
        dtype = self._dtype(weights.tensors, needed)
        placed = {name: weights.tensor(weight, dtype) for name, weight in needed.items()}
        workspace = self.needs(graph, weights.tensors, max_rows, room).workspace
        return TorchProgram(graph, placed, cache, max_rows, workspace, self.device)

    def _dtype(self, tensors: Tensors, weights: dict[str, Weight]) -> torch.dtype:
        kinds = {tensors.info(name).type for name, weight in weights.items() if len(weight.shape) == 2}
        exact = self.device.type == "cpu" or kinds == {TensorType.F32}
        return torch.float32 if exact else torch.bfloat16


class TorchWeights:
    """A checkpoint's tensors on a device."""

    def __init__(self, tensors: Tensors, device: torch.device) -> None:
        self.tensors = tensors
        self._device = device
        self._placed: dict[str, torch.Tensor] = {}

    def tensor(self, weight: Weight, dtype: torch.dtype) -> torch.Tensor:
        """One of them."""
        if weight.name not in self._placed:
            values = torch.from_numpy(self.tensors.array(weight.name))
            self._placed[weight.name] = values.to(self._device, dtype)
            self.tensors.release(weight.name)
        return self._placed[weight.name]


def weights_of(graph: Graph) -> dict[str, Weight]:
    """Every tensor that a graph reads, by name."""
    return {weight.name: weight for node in graph.nodes for weight in _weights(node)}


def _weights(node: Node) -> Iterator[Weight]:
    match node.detail:
        case Linear(parts=parts, biases=biases):
            yield from (*parts, *biases)
        case Norm(weight=weight):
            yield weight
        case Weight():
            yield node.detail


def _count(weight: Weight) -> int:
    elements = 1
    for size in weight.shape:
        elements *= size
    return elements


def _workspace(graph: Graph, rows: int) -> int:
    """The most values that are alive at once, with one more of each while it is computed."""
    last = {source: place for place, node in enumerate(graph.nodes) for source in node.inputs}
    alive = most = 0
    for place, node in enumerate(graph.nodes):
        wide = 0 if node.op == "head" else node.width
        most = max(most, alive + 2 * wide)
        alive += wide - sum(source.width for source in set(node.inputs) if last[source] == place)
    return most * rows


def _adapters(graph: Graph, room: AdapterRoom | None) -> int:
    """Numbers of all adapters that there is room for."""
    if room is None:
        return 0
    parts = [part for node in graph.nodes if node.op == "linear" for part in node.detail.parts]
    return room.count * room.rank * sum(sum(part.shape) for part in parts)


def _device(name: str) -> torch.device:
    """A device that works, or `UsageError` with those that torch can see."""
    with suppress(ImportError):
        if name.split(":")[0] == "npu":
            import_module("torch_npu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # torch's own, and whatever a driver raises
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"device is {quoted(name)}, which torch cannot use ({reason}): it sees {', '.join(_visible())}"
        ) from error
    return device


def _visible() -> list[str]:
    found = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        count = torch.accelerator.device_count()
        found += [f"{kind.type}:{n}" for n in range(count)] if kind is not None else []
    return found
