"""The seam between the engine and what computes: a `Backend` compiles a graph, an `Executable` runs steps.

Everything above this folder knows these types only. A backend that lacks an operation or a shape refuses it
by name, before memory is filled. Shapes: T tokens of a step, S sampled rows.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from sampan.kernels.experts import ExpertReads, ExpertRoom
from sampan.kernels.graph import Graph
from sampan.kernels.ops import Weight
from sampan.kernels.tensors import Floats, Tensors

PAGE = 32
"""Tokens of one page of the cache, on every backend."""


@dataclass(frozen=True)
class AdapterRoom:
    """How many adapters there may be at once, and their largest rank."""

    count: int
    rank: int


@dataclass(frozen=True)
class CacheSize:
    """The paged cache: how many pages, and the type of its numbers; and how many states beside it."""

    pages: int
    dtype: str = "bf16"
    states: int = 0


@dataclass(frozen=True)
class Needs:
    """Bytes that a plan takes. `workspace`: of the largest step, without logits; `logits`: of a row of them;
    `page`: of a page of all layers, by the cache's type; `dtype`: what suits the weights; `adapters`: of all
    that there is room for, without what they add to experts; `state`: beside a sequence's pages; `experts`:
    of `weights`, for those on disk; `parts`: of each of the other weights, by a name: graphs on the same
    weights share what has one name."""

    weights: int
    workspace: int
    logits: int
    page: Mapping[str, int]
    dtype: str
    adapters: int = 0
    state: int = 0
    experts: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)


DRAFT_ROWS = 8
"""Up to about here a step reads weights longer than it computes."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What suits a model on a machine. `threads`: of a step. `chunk_rows`: of a prompt in one step.
    `draft_rows`: up to which a step is filled with drafts, 0 for none."""

    threads: int
    chunk_rows: int = 512
    draft_rows: int = DRAFT_ROWS


Notice = Callable[[str], AbstractContextManager[object]]
"""Says what is being waited for."""


class Span(NamedTuple):
    """Rows of one sequence in a step: their tokens, how many are before them, the sequence's pages, how many
    of the last rows are sampled, the slot of its adapter (-1: none), tokens whose logits are all that is
    wanted of the first sampled rows, one of each, and the floats [rows, width] that the model reads beside
    tokens, if it does. Where the graph has states, that before the rows is read from one slot (-1: zeros),
    that behind them left in another or the same, which no other span has."""

    ids: list[int]
    before: int
    pages: Any  # int32 [pages]
    sampled: int
    slot: int = -1
    targets: Sequence[int] = ()
    reads: int = -1
    writes: int = -1
    given: Any = None


class Rows(Protocol):
    """S sampled rows of the last step, valid until the next, of which L have no target.

    `best`: the most probable tokens; `logprobs`: natural logarithms of their probabilities; `log_totals`: of
    the sums of the exponentials; `unsound`: for each row with a NaN or an infinity, where that was first
    seen; `chosen`: the logits of the rows' targets, nothing where no row has one."""

    @property
    def best(self) -> Sequence[int]: ...
    @property
    def logprobs(self) -> Sequence[float]: ...
    @property
    def log_totals(self) -> Sequence[float]: ...
    @property
    def unsound(self) -> Mapping[int, str]: ...
    @property
    def chosen(self) -> Sequence[float]: ...
    @property
    def logits(self) -> Floats:
        """[L, vocabulary]."""

    def logits_of(self, first: int, count: int) -> Floats:
        """[count, vocabulary], of sampled rows from `first` on, none of which has a target."""

    def kept(self, name: str) -> Floats:
        """What the model kept by this name: [S, width], or [T, width] where it was not of the sample."""


class LowRank(Protocol):
    """What an adapter adds to one weight: y += B (A x), its scale within B."""

    @property
    def weight(self) -> Weight:
        """The weight that it adapts."""

    @property
    def key(self) -> str:
        """Of A: parts of one fused module share it."""

    @property
    def rank(self) -> int:
        """Inner size of the product."""

    def a(self) -> Floats:
        """[rank, inputs]."""

    def b(self) -> Floats:
        """[outputs, rank]."""


class Adapter(Protocol):
    """A LoRA adapter (arXiv:2106.09685), as `weights/` gives it. `halves`: its numbers are float16 in the
    file."""

    @property
    def where(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def halves(self) -> bool: ...
    @property
    def parts(self) -> Sequence[LowRank]: ...


class NewValues(Protocol):
    """Values that take the place of weights. `rows(name, start, stop)`: some of a tensor's rows."""

    @property
    def where(self) -> str: ...
    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def rows(self) -> Callable[[str, int, int], Floats]: ...


class Executable(Protocol):
    """A compiled graph with its weights and its cache. One caller runs it."""

    @property
    def outputs(self) -> Collection[str]:
        """Names of what a step gives: the logits, or what the graph keeps."""

    @property
    def max_rows(self) -> int:
        """Rows of the largest step."""

    @property
    def workspace_bytes(self) -> int:
        """Allocated for steps, without logits: what `Needs.workspace` said."""

    @property
    def takes_targets(self) -> bool:
        """Whether spans may have targets: the logits of such rows are never held."""

    @property
    def expert_reads(self) -> ExpertReads | None:
        """What reading experts from disk has taken; None where none stay there."""

    def run(self, spans: Sequence[Span]) -> Rows:
        """One step. Raises `OutOfMemory` where its logits find no room, and `WeightsError` where an expert
        cannot be read from disk: it has then given nothing."""

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Make the second page of each pair what the first is, in all layers, between two steps."""

    def update(self, values: NewValues) -> None:
        """New values for weights, in place: all of them, or none where `WeightsError` is raised."""

    def adapter_bytes(self, adapter: Adapter) -> int:
        """What an adapter takes, at most."""

    def set_adapter(self, slot: int, adapter: Adapter) -> None:
        """Make an adapter what rows of this slot use."""

    def clear_adapter(self, slot: int) -> None:
        """Free a slot."""


class Backend(Protocol):
    """One way to compute: a machine or a device. Weights, once placed, may serve several executables."""

    @property
    def name(self) -> str:
        """As `--backend` has it."""

    @property
    def exact(self) -> bool:
        """Whether a row's bits depend on the row alone: where not, nothing is drafted."""

    @property
    def threads(self) -> int:
        """Threads that a step uses."""

    def check(self, graph: Graph, where: str) -> None:
        """`UnsupportedModel` for an operation or a shape that this backend lacks. `where`: the model."""

    def needs(
        self, graph: Graph, tensors: Tensors, max_rows: int, room: AdapterRoom | None,
        experts: ExpertRoom | None = None,
    ) -> Needs:  # fmt: skip
        """Bytes that the plan of this graph takes, exactly. `experts`: they stay on disk, but for so much."""

    def place(self, tensors: Tensors, weights_bytes: int, experts: ExpertRoom | None = None) -> Any:
        """Where weights come to lie; each is read when a graph that uses it is compiled."""

    def tune(
        self, first: Callable[[int], Graph], layers: int, weights: Any, cache: CacheSize, *,
        name: str, memory: int | None, notice: Notice,
    ) -> Tuning:  # fmt: skip
        """What suits a model on this machine, measured once where that pays. `first`: the graph of its first
        layers and the head; `memory`: bytes for everything, if there is a limit."""

    def compile(
        self, graph: Graph, weights: Any, cache: CacheSize, max_rows: int,
        room: AdapterRoom | None = None, chosen: Any = None,
    ) -> Executable:  # fmt: skip
        """The graph on these weights, with an empty cache; `chosen`: what `tune` gave."""
