"""A plan with its memory and its weights: the native program, and what runs steps on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sampan.core.errors import UnsupportedModel, WeightsError
from sampan.kernels.backend import Adapter, CacheSize, NewValues, Span
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.adapters import bytes_of, packed_adapter
from sampan.kernels.cpu.layout import Segment
from sampan.kernels.cpu.machine import Machine, out_of_memory, padded
from sampan.kernels.cpu.panels import PackedWeights, Place
from sampan.kernels.cpu.plan import Bias, Instruction, Output, Plan, Turning
from sampan.kernels.cpu.plan import Place as Features
from sampan.kernels.cpu.stored import StoredMatrix
from sampan.kernels.experts import ExpertReads
from sampan.kernels.graph import LOGITS
from sampan.kernels.ops import Weight
from sampan.kernels.tensors import Floats


@dataclass
class NativeRows:
    """See `backend.Rows`."""

    program: Any
    norms: Sequence[str]
    outputs: Mapping[str, Output]
    best: list[int]
    logprobs: list[float]
    log_totals: list[float]
    marks: dict[int, int]
    chosen: list[float]
    held: list[int]

    @property
    def unsound(self) -> dict[int, str]:
        """Rows with a NaN or an infinity, and where that was first seen."""
        return {row: _where(self.norms, mark) for row, mark in self.marks.items()}

    @cached_property
    def logits(self) -> Floats:
        """[L, vocabulary]."""
        logits: Floats = self.program.sampled_logits
        return logits

    def logits_of(self, first: int, count: int) -> Floats:
        """[count, vocabulary]."""
        start = self.held[first] if self.held else first
        return self.logits[start : start + count]

    def kept(self, name: str) -> Floats:
        """[S, width], or [T, width]."""
        output = self.outputs[name]
        values: Floats = self.program.kept(*output.place, output.width, output.sampled)
        return values


class NativeProgram:
    """See `backend.Executable`."""

    def __init__(self, plan: Plan, weights: PackedWeights, cache: CacheSize, machine: Machine) -> None:
        self.plan = plan
        self.weights = weights
        self.machine = machine
        self._biases: dict[str, list[Floats]] = {}
        self.program = _new_program(plan, machine, cache)
        self._write(plan)
        assert self.workspace_bytes == plan.workspace(machine.threads)

    @property
    def outputs(self) -> frozenset[str]:
        """Names of what a step gives."""
        return frozenset(self.plan.outputs) | ({LOGITS} if self.plan.vocabulary else set())

    @property
    def max_rows(self) -> int:
        """Rows of the largest step."""
        return self.plan.rows

    @property
    def workspace_bytes(self) -> int:
        """Allocated for steps, without logits."""
        return int(self.program.workspace_bytes)

    @property
    def takes_targets(self) -> bool:
        """The head's pieces sum their logits up."""
        return True

    @property
    def expert_reads(self) -> ExpertReads | None:
        """What reading experts from disk has taken."""
        store = self.weights.store
        return None if store is None else store.reads()

    def tune(self, direct_rows: int, row_block: int) -> None:
        """What a short measurement chooses; results do not depend on it."""
        self.program.tune(direct_rows, row_block)

    def run(self, spans: Sequence[Span]) -> NativeRows:
        """One step."""
        if self.plan.given is not None:
            self._give(self.plan.given, spans)
        try:
            found = self.program.run([span[:8] for span in spans])
            return NativeRows(self.program, self.plan.norms, self.plan.outputs, *found)
        except MemoryError as e:
            raise out_of_memory(f"a step of {sum(len(span.ids) for span in spans)} tokens") from e
        except RuntimeError as e:  # an expert could not be read
            raise WeightsError(str(e)) from e

    def _give(self, to: Output, spans: Sequence[Span]) -> None:
        values = np.concatenate([span.given for span in spans])
        if values.shape != (sum(len(span.ids) for span in spans), to.width):
            raise ValueError(f"run: {values.shape} floats are given, and {to.width} of each row are read")
        self.program.give(*to.place, np.ascontiguousarray(values, np.float32))

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Make the second page of each pair what the first is."""
        self.program.copy_pages(list(pairs))

    def update(self, values: NewValues) -> None:
        """New values for weights, in place."""
        from sampan.kernels.cpu.update import update  # which loading does without

        stored = {
            part.name for layer in self.plan.stored for own in layer.experts for s in own for part in s.parts
        }
        if names := sorted(stored & values.shapes.keys()):
            raise UnsupportedModel(
                f"{values.where}: {names[0]} is an expert's and stays on disk: load the model without "
                "expert_memory to give its experts new values"
            )
        parts = [part for segment in self.plan.segments.values() for part in segment.parts]
        known = {part.name: part for part in parts if not part.transposed}
        update(values, known | self.plan.vectors, self._place, self.machine)

    def adapter_bytes(self, adapter: Adapter) -> int:
        """What an adapter takes, at most."""
        return bytes_of(adapter, self.plan.turned)

    def set_adapter(self, slot: int, adapter: Adapter) -> None:
        """Make an adapter what rows of this slot use."""
        for part in adapter.parts:
            if part.weight.name not in self.plan.sites:
                said = f"adapters of {part.weight.name} are not supported: backend torch has them"
                raise UnsupportedModel(f"{adapter.where}: {said}")
        packed = packed_adapter(adapter, self.machine, self.plan.turned)
        self.program.set_adapter(slot, [(self.plan.sites[name], a, b) for name, (a, b) in packed.items()])

    def clear_adapter(self, slot: int) -> None:
        """Free a slot."""
        self.program.clear_adapter(slot)

    def _place(self, weight: Weight) -> Place:
        place = self.weights.place(weight)
        return replace(place, vectors=(*place.vectors, *self._biases.get(weight.name, ())))

    def _write(self, plan: Plan) -> None:
        program = self.program
        try:
            program.reserve(plan.bytes)
        except MemoryError as e:
            raise out_of_memory(f"steps of {plan.rows} tokens") from e
        for buffer in plan.buffers:
            program.buffer(buffer.region.offset, buffer.width, buffer.rows)
        for acts in plan.activations:
            program.activations(acts.region.offset, acts.inputs, int(acts.operand), acts.rows)
        for angles in plan.angles:
            program.angles(angles.region.offset, list(angles.rope.inv_freq), angles.rope.scale)
        for r in plan.routers:
            bias = None if r.bias is None else self.weights.vector(r.bias)
            program.router(
                r.weight.shape[0], r.chosen, r.groups, r.groups_kept, r.group_top, r.scores == "sigmoid",
                r.normalised, r.scale, bias,
            )  # fmt: skip
        if self.weights.store:
            program.store(self.weights.store.native)
        self._logits = -1
        if plan.vocabulary:
            self._logits = program.logits(padded(plan.vocabulary), plan.vocabulary)
        if plan.room:
            program.adapters(plan.room.count, plan.room.rank)
        for instruction in plan.instructions:
            try:
                self._add(instruction)
            except ValueError as e:
                raise UnsupportedModel(f"{instruction.label}: {e}") from e

    def _add(self, instruction: Instruction) -> None:
        fields = {name: self._given(value) for name, value in instruction.fields.items()}
        self.program.record_for(instruction.steps)
        if instruction.op == "adapt":
            given = list(fields["outputs"]), fields["act"], *fields["out"], fields["sampled"]
            self.program.adapt(*given, *fields.get("heads", ()))
        elif instruction.op == "adapt_each":
            given = list(fields["outputs"]), fields["experts"], fields["act"]
            self.program.adapt_each(*given, *fields["out"], fields["router"])
        else:
            self.program.add(instruction.op, fields)

    def _given(self, value: Any) -> Any:
        """A field as the native program takes it."""
        match value:
            case Segment():
                return self.weights.matrix(value)
            case StoredMatrix():
                return self.weights.described(value)
            case [Segment(), *_]:
                return [self.weights.matrix(segment) for segment in value]
            case Weight():
                return self.weights.vector(value)
            case Bias():
                return self._bias(value)
            case Turning(norm=norm):
                turned = (None, 0.0) if norm is None else (self.weights.vector(norm.weight), norm.eps)
                return (*turned, *value[1:])
            case Features(buffer=-1):
                return self._logits, value.offset
            case Features():
                return tuple(value)
        return value

    def _bias(self, bias: Bias) -> Floats:
        values = np.zeros(bias.size, np.float32)
        for start, weight in bias.parts:
            part = values[start : start + weight.shape[0]]
            part[:] = self.weights.vector(weight)
            self._biases.setdefault(weight.name, []).append(part)
        return values


def _new_program(plan: Plan, machine: Machine, cache: CacheSize) -> Any:
    layers = [(a.kv_heads, a.key_size, a.value_size, int(a.latent)) for a in plan.attentions]
    try:
        return _native.Program(
            machine.pool, machine.isa, plan.rows, cache.pages, cache.dtype, layers, cache.states,
            plan.state_floats,
        )  # fmt: skip
    except MemoryError as e:
        states = f" and {cache.states} states" if cache.states else ""
        raise out_of_memory(f"a cache of {cache.pages * _native.PAGE} tokens{states}") from e
    except ValueError as e:
        raise UnsupportedModel(str(e)) from e


def _where(norms: Sequence[str], mark: int) -> str:
    return "in the head" if mark < 0 else f"before {norms[mark]}"
