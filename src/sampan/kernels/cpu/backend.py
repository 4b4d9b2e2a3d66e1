"""The native kernels as a backend: this machine's threads and instruction set."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

from sampan.core.errors import UnsupportedModel
from sampan.core.memory import available_memory
from sampan.core.settings import Settings
from sampan.kernels.backend import AdapterRoom, CacheSize, Needs, Notice
from sampan.kernels.cpu import _native, tuning  # type: ignore[attr-defined]
from sampan.kernels.cpu.expert_store import Telling, open_store
from sampan.kernels.cpu.layout import Layout
from sampan.kernels.cpu.limits import check
from sampan.kernels.cpu.machine import machine, padded
from sampan.kernels.cpu.panels import PackedWeights
from sampan.kernels.cpu.plan import Plan
from sampan.kernels.cpu.planner import make_plan
from sampan.kernels.cpu.program import NativeProgram
from sampan.kernels.cpu.tuning import Tuning
from sampan.kernels.experts import ExpertRoom
from sampan.kernels.formats import TensorType
from sampan.kernels.graph import Graph
from sampan.kernels.tensors import Tensors

CACHES = ("bf16", "f32", "int8")


@dataclass
class CpuBackend:
    """See `backend.Backend`. `asked`: threads that somebody asked for, otherwise every core."""

    settings: Settings
    asked: int | None = None
    name: str = "cpu"
    exact: bool = True

    def __post_init__(self) -> None:
        self.machine = machine(self.settings, self.asked)
        self.asked = self.asked or self.settings.threads
        self._last: tuple[_Asked, Plan] | None = None

    @property
    def threads(self) -> int:
        """Threads that a step uses."""
        return self.machine.threads

    def check(self, graph: Graph, where: str) -> None:
        """`UnsupportedModel` for a shape that the kernels are not written for, by name."""
        check(graph, where)

    def needs(
        self, graph: Graph, tensors: Tensors, max_rows: int, room: AdapterRoom | None = None,
        experts: ExpertRoom | None = None,
    ) -> Needs:  # fmt: skip
        """Bytes that the plan of this graph takes."""
        plan = self._plan(graph, Layout(tensors, experts), max_rows, room)
        return Needs(
            weights=plan.weight_bytes,
            parts=plan.parts,
            workspace=plan.workspace(self.threads),
            logits=4 * padded(plan.vocabulary),
            page={cache: plan.page_bytes(cache) for cache in CACHES},
            dtype="f32" if _types(plan, tensors) == {TensorType.F32} else "bf16",
            adapters=plan.adapter_bytes,
            state=4 * plan.state_floats,
            experts=plan.expert_slots * plan.expert_bytes,
        )

    def place(
        self, tensors: Tensors, weights_bytes: int | None = None, experts: ExpertRoom | None = None
    ) -> PackedWeights:
        """Packed weights, each made when a graph that uses it is compiled."""
        return PackedWeights(tensors, self.machine, weights_bytes, experts)

    def compile(
        self, graph: Graph, weights: PackedWeights, cache: CacheSize, max_rows: int,
        room: AdapterRoom | None = None, chosen: Tuning | None = None,
    ) -> NativeProgram:  # fmt: skip
        """The graph on these weights, with an empty cache; `chosen`: what `tune` gave."""
        here = self.machine
        if chosen and chosen.threads != here.threads:
            here = machine(self.settings, chosen.threads)
        plan = self._plan(graph, weights.layout, max_rows, room)
        self._last = None
        self._open(plan, weights)
        program = NativeProgram(plan, weights, cache, here)
        if chosen:
            program.tune(chosen.direct_rows, chosen.row_block)
        return program

    def tune(
        self, first: Callable[[int], Graph], layers: int, weights: PackedWeights, cache: CacheSize, *,
        name: str, memory: int | None, notice: Notice,
    ) -> Tuning:  # fmt: skip
        """What was measured on this machine before, or is now; huge pages are as it says from here on.

        `first`: the graph of the model's first layers and its head. `memory`: bytes for everything, if there
        is a limit. A cache that is too small to measure with leaves the defaults, and the measurement to
        another time.
        """
        here, home = self.machine, self.settings.home
        if weights.layout.experts:  # a disk's times say nothing of the kernels; a draft reads experts in vain
            plan = self._plan(first(layers), weights.layout, tuning.CHUNKS[-1], None)
            self._open(plan, weights, lambda: notice(f"packing the experts of {name} (once)"))
            return Tuning(threads=here.threads, draft_rows=0)
        if not self.settings.tune:
            _native.use_huge_pages(tuning.DEFAULT.huge_pages)
            return Tuning(threads=here.threads)
        plan = self._plan(first(layers), weights.layout, tuning.CHUNKS[-1], None)
        subject = tuning.fingerprint(plan, weights.tensors, here.isa, cache.dtype, self.asked)
        chosen = tuning.read(home, subject, here.threads)
        _native.use_huge_pages(chosen.huge_pages if chosen else tuning.DEFAULT.huge_pages)
        if chosen:
            return chosen
        from sampan.kernels.cpu import trial

        if cache.pages < trial.PAGES:
            return Tuning(threads=here.threads)
        with notice(f"measuring this machine for {name} (once)"):
            huge = self._huge_pages(memory)
            _native.use_huge_pages(huge)
            counts = tuning.thread_counts(self.asked, here.threads)
            machines = [here, *(machine(self.settings, count) for count in counts[1:])]
            chosen = trial.tune(first, layers, weights, machines, cache.dtype, plan.weight_bytes)
        chosen = replace(chosen, huge_pages=huge)
        tuning.write(home, subject, name, chosen)
        return chosen

    def _open(self, plan: Plan, weights: PackedWeights, telling: Telling = nullcontext) -> None:
        """Have the plan's experts read from disk, where they stay there."""
        if plan.stored and weights.store is None:
            weights.store = open_store(plan, weights, self.settings, telling)
        labels = tuple(layer.label for layer in plan.stored)
        if weights.store and weights.store.labels != labels:
            raise UnsupportedModel(f"{weights.tensors.where}: experts on disk serve one graph, not another")

    def _plan(self, graph: Graph, layout: Layout, max_rows: int, room: AdapterRoom | None) -> Plan:
        """The last one is kept until it is compiled: loading asks for what it needs, tunes and compiles."""
        asked = _Asked(graph, layout.tensors, max_rows, room, layout.experts)
        if self._last is None or self._last[0] != asked:
            self._last = asked, make_plan(graph, layout, max_rows, room)
        return self._last[1]

    def _huge_pages(self, memory: int | None) -> bool:
        """As known from another model; measured where the budget has room for that, before it is needed."""
        from sampan.kernels.cpu import trial

        for _, _, known in tuning.stored(self.settings.home, tuning.machine_print(self.machine.isa)):
            return known.huge_pages
        room = memory or available_memory()
        if room is None or room < trial.PROBE_BYTES:
            return tuning.DEFAULT.huge_pages
        return trial.huge_pages(self.machine)


class _Asked(NamedTuple):
    """What a plan is made of; graphs and checkpoints are compared by identity."""

    graph: Graph
    tensors: Tensors
    max_rows: int
    room: AdapterRoom | None
    experts: ExpertRoom | None


def _types(plan: Plan, tensors: Tensors) -> set[TensorType]:
    """Of all matrices; E4M3 counts as bf16, whatever its products with scales take."""
    infos = (tensors.info(part.name) for segment in plan.segments.values() for part in segment.parts)
    return {TensorType.BF16 if info.form and info.form.rows else info.type for info in infos}
