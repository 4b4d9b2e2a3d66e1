"""What the stages of a recipe have in common: a course of steps, and how a gradient becomes new weights."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import cos, pi
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from sampan.core.errors import UsageError, quoted
from sampan.envs.task import Problem, Task
from sampan.train.student import Student

Row = dict[str, Any]
"""A step as the log has it: `number`, `seconds` by part, and what its stage tells."""


@dataclass(frozen=True)
class Bench:
    """What a stage works with. `place`: of the stage in the recipe; `seed`: its own; `done`: its steps that
    an earlier run did; `folder`: the run's."""

    student: Student
    optimizer: torch.optim.Optimizer
    place: int
    seed: int
    done: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """A part of a recipe, of so many `steps`."""

    kind: ClassVar[str]
    compares: ClassVar[bool] = False
    """Whether it needs the model as it was before the stage, under the name `Student.before`."""
    steps: int

    def __post_init__(self) -> None:
        """`UsageError` by the field's name for what would not be obeyed."""
        at_least(self, 1, "steps")

    @property
    def sequences(self) -> int:
        """How many it samples side by side."""
        return 1

    @property
    def sources(self) -> tuple[str, ...]:
        """What it learns from, by names that say all that this depends on."""
        return ()

    @abstractmethod
    def train(self, bench: Bench) -> Iterator[Row]:
        """The steps behind those that are done, each when it is done too."""


@dataclass(frozen=True, kw_only=True)
class Descent(Stage):
    """A stage that changes weights. `rate`: AdamW's (arXiv:1711.05101), reached over `warmup` steps, and
    from there constant or falling to 0 by the last step ("linear", "cosine"). `norm`: gradients are cut to
    it."""

    rate: float = 1e-4
    warmup: int = 2
    decay: Literal["none", "linear", "cosine"] = "none"
    norm: float = 1.0

    def __post_init__(self) -> None:
        """See `Stage`."""
        super().__post_init__()
        for name in ("rate", "norm"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {quoted(getattr(self, name))}: give a positive number")
        one_of(self, "decay", "none", "linear", "cosine")

    def rate_at(self, number: int) -> float:
        """Of the step `number`, from 0 on."""
        risen = min(1.0, (number + 1) / max(1, self.warmup))
        left = (self.steps - number) / max(1, self.steps - self.warmup)
        match self.decay:
            case "linear":
                return self.rate * min(risen, left)
            case "cosine":
                return self.rate * min(risen, (1 - cos(pi * min(1.0, left))) / 2)
            case "none":
                return self.rate * risen

    def descend(self, bench: Bench, number: int) -> float:
        """Change the weights by the gradients that have come together, and give them to the engine; returns
        the gradients' norm."""
        for group in bench.optimizer.param_groups:
            group["lr"] = self.rate_at(number)
        parameters = bench.student.trained.parameters
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.norm))
        bench.optimizer.step()
        bench.optimizer.zero_grad(set_to_none=True)
        bench.student.publish()
        return norm


@dataclass(frozen=True)
class Problems:
    """The problems of every step: `each` a step out of `different` of a task, gone through in another order
    each time."""

    task: Task
    seed: int
    each: int
    different: int

    def of(self, number: int) -> Sequence[Problem]:
        """Of the step `number`."""
        return [self._at(place) for place in range(number * self.each, (number + 1) * self.each)]

    def _at(self, place: int) -> Problem:
        epoch, own = divmod(place, self.different)
        if epoch not in self._orders:
            self._orders[epoch] = np.random.default_rng((self.seed, epoch)).permutation(self.different)
        return self._all[int(self._orders[epoch][own])]

    @cached_property
    def _all(self) -> Sequence[Problem]:
        return self.task.problems("train", self.seed, self.different)

    @cached_property
    def _orders(self) -> dict[int, Any]:
        return {}


class Clock:
    """Adds up the seconds of each part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        """What has passed since the last one was for `name`."""
        now = perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def at_least(stage: Stage, least: int, *names: str) -> None:
    """`UsageError` by the field's name."""
    for name in names:
        if getattr(stage, name) < least:
            raise UsageError(f"{name} is {quoted(getattr(stage, name))}: give {least} or more")


def one_of(stage: object, name: str, *known: str) -> None:
    """`UsageError` by the field's name."""
    if getattr(stage, name) not in known:
        raise UsageError(f"{name} is {quoted(getattr(stage, name))}: one of {', '.join(known)}")
