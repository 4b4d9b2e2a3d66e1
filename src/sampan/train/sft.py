"""Supervised fine-tuning: the answers of examples become likelier."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sampan.core.errors import UsageError
from sampan.train.batch import Group
from sampan.train.data import Dataset, JsonLines, Reader
from sampan.train.lora import TrainedAdapter
from sampan.train.parts import parts
from sampan.train.samples import kept_of
from sampan.train.stage import Bench, Clock, Descent, Row, at_least


@dataclass(frozen=True, kw_only=True)
class Sft(Descent):
    """`data`: the examples; without it, what the stage of samples before this one has kept. `examples`: of
    each step, packed into training steps without padding; only answers are learnt, each token alike, and
    only they come to the head. The order is another in each epoch. `afresh`: the adapter begins anew, as
    where a model is taught by what an earlier stage made."""

    kind: ClassVar[str] = "sft"
    data: Dataset | None = None
    examples: int = 16
    afresh: bool = False

    def __post_init__(self) -> None:
        """See `Stage`."""
        super().__post_init__()
        at_least(self, 1, "examples")

    @property
    def sources(self) -> tuple[str, ...]:
        """See `Stage`."""
        return () if self.data is None else (self.data.name,)

    def train(self, bench: Bench) -> Iterator[Row]:
        """See `Stage`."""
        groups, passed = self._groups(bench)
        if self.afresh and not bench.done:
            adapter = bench.student.trained
            assert isinstance(adapter, TrainedAdapter)  # see `Recipe`
            adapter.renew(bench.seed)
            bench.student.publish()
        for number in range(bench.done, self.steps):
            order = [
                _place(bench.seed, number * self.examples + i, len(groups)) for i in range(self.examples)
            ]
            yield {**self._step(bench, [groups[place] for place in order], number), "passed": passed}

    def _groups(self, bench: Bench) -> tuple[list[Group], int]:
        """Of all examples that fit a training step, and how many do not."""
        data = self.data or JsonLines(kept_of(bench.folder, bench.place - 1))
        reader = Reader(bench.student.llm)
        every = [reader.group(example) for example in data.examples(bench.seed)]
        fitting = [group for group in every if group.rows <= bench.student.rows]
        if not fitting:
            raise UsageError(f"data: none of {len(every)} examples has {bench.student.rows} tokens or fewer")
        return fitting, len(every) - len(fitting)

    def _step(self, bench: Bench, groups: Sequence[Group], number: int) -> Row:
        clock = Clock()
        tokens = sum(len(own) for group in groups for own in group.continuations)
        total = 0.0
        for part in parts(groups, bench.student.rows):
            loss = -bench.student.logprobs(groups[part.start : part.stop]).sum() / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        clock.lap("gradients")
        gradient = self.descend(bench, number)
        clock.lap("update")
        return {
            "number": number,
            "loss": total,
            "tokens": tokens,
            "rows": sum(group.rows for group in groups),
            "gradient": gradient,
            "rate": self.rate_at(number),
            "seconds": clock.seconds,
        }


def _place(seed: int, position: int, count: int) -> int:
    epoch, own = divmod(position, count)
    return int(np.random.default_rng((seed, epoch)).permutation(count)[own])
