"""What a step of a model does, counted from its plan, and the seconds that this takes at a machine's pace.

Of an untied embedding a row is read for each token; of a mixture's matrices the chosen experts', of several
rows as many as uniform choices would name.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from sampan.kernels.cpu.layout import Segment, panel_of
from sampan.kernels.cpu.pace import Pace, phases
from sampan.kernels.cpu.plan import Instruction, Plan
from sampan.kernels.ops import Attention
from sampan.kernels.tensors import Tensors

BETWEEN = 100e-6
"""Seconds between two steps: choosing tokens, bookkeeping, handing them on (docs/performance.md)."""
_EARLY = 64  # tokens of a sequence whose rows keep 16 bits: two planes

T = TypeVar("T")


class Product(NamedTuple):
    """A matrix that a step reads. `fine`: with two planes for each row; `sampled`: for sampled rows alone.
    `choices`: of an expert's, how many are chosen of how many."""

    store: int
    n: int
    k: int
    bytes: int
    fine: bool
    sampled: bool
    choices: tuple[int, int] | None = None

    def named(self, rows: float) -> float:
        """The part of such matrices that a step of so many rows reads."""
        if self.choices is None:
            return 1.0
        chosen, experts = self.choices
        return float(1 - (1 - chosen / experts) ** rows)

    def seconds(self, pace: Pace, rows: float) -> float:
        """Of one such matrix, on average."""
        part = self.named(rows)
        own = rows * self.choices[0] / self.choices[1] / part if self.choices else rows
        return part * pace.product(self.store, self.n * self.k, own, fine=self.fine)


@dataclass(frozen=True)
class Work:
    """Of one step, each with how often it is done; `phases`: instructions that wait for others. `idle`: bytes
    of an embedding, of which a step reads a few rows."""

    products: Counter[Product]
    attentions: Counter[Attention]
    phases: int
    idle: int

    @property
    def expert_bytes(self) -> int:
        """Of all experts that are chosen from."""
        return sum(p.bytes * count for p, count in self.products.items() if p.choices)

    @property
    def dense_bytes(self) -> int:
        """Of weights that every step reads."""
        return sum(p.bytes * count for p, count in self.products.items() if not p.choices)

    @property
    def chosen_bytes(self) -> float:
        """Of the experts that one token goes through."""
        return sum(p.bytes * count * p.named(1) for p, count in self.products.items() if p.choices)

    def decode_seconds(self, pace: Pace, context: int) -> float:
        """Of a token of one sequence, after `context` others."""
        seconds = BETWEEN + self.phases * pace.phase()
        seconds += sum(count * p.seconds(pace, 1) for p, count in self.products.items())
        if context == 0:
            return seconds
        attending = sum(count * pace.attending(shape).decode for shape, count in self.attentions.items())
        return seconds + context * attending

    def prefill_seconds(self, pace: Pace, tokens: int, chunk: int) -> float:
        """Of a prompt, whose last row is sampled."""
        seconds = sum(n * pace.attending(shape).prefill for shape, n in self.attentions.items())
        seconds *= tokens * tokens / 2
        for start in range(0, tokens, chunk):
            rows = min(chunk, tokens - start)
            planes = rows + (min(_EARLY, rows) if start == 0 else 0)
            seconds += BETWEEN + self.phases * pace.phase()
            for p, count in self.products.items():
                seconds += count * p.seconds(pace, 1 if p.sampled else planes)
        return seconds

    def longer(self, before: "Work", times: int) -> "Work":
        """This, and what it does more than `before` so many times more."""
        return Work(
            _more(self.products, before.products, times),
            _more(self.attentions, before.attentions, times),
            self.phases + times * (self.phases - before.phases),
            self.idle + times * (self.idle - before.idle),
        )


def work_of(plan: Plan, tensors: Tensors) -> Work:
    """Counted from a plan."""
    products = Counter(_products(plan, tensors))
    read = {segment.parts[0].name for each in plan.instructions for segment in _matrices(each)}
    idle = sum(segment.nbytes for name, segment in plan.segments.items() if name not in read)
    # Layers differ in the number of their cache alone.
    shapes = Counter(
        Attention(0, a.heads, a.kv_heads, a.key_size, a.value_size, a.scale, a.latent)
        for a in plan.attentions
    )
    return Work(products, shapes, phases(plan.instructions), idle)


def _products(plan: Plan, tensors: Tensors) -> Iterator[Product]:
    for each in plan.instructions:
        choices = None
        if each.op in ("each", "gate_each"):
            router = plan.routers[each.fields["router"]]
            choices = router.chosen, router.weight.shape[0]
        for s in _matrices(each):
            fine, sampled = s.fine, bool(each.fields.get("sampled"))
            yield Product(_store(tensors, s), s.n, s.k, s.nbytes, fine, sampled, choices)


def _matrices(instruction: Instruction) -> tuple[Segment, ...]:
    if instruction.op == "embed":
        return ()
    one = instruction.fields.get("matrix")
    return (one,) if isinstance(one, Segment) else instruction.fields.get("matrices", ())


def _store(tensors: Tensors, segment: Segment) -> int:
    packed = tensors.packed.get(segment.parts[0].name)
    return packed.store if packed else panel_of(tensors, segment.parts[0])[0]


def _more(mine: Counter[T], before: Counter[T], times: int) -> Counter[T]:
    return Counter({key: mine[key] + times * (mine[key] - before[key]) for key in mine | before})
