"""A recipe: a Python file with a function `recipe` that gives one of the frozen configurations here."""

import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from sampan.catalog.catalog import DEFAULT
from sampan.core.errors import SampanError, UsageError, quoted, shortened
from sampan.envs.rewards import Reward
from sampan.envs.task import Task
from sampan.train.grpo import Grpo

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Lora:
    """`alpha` / `rank` is the scale of the product; `modules`: which linears of each layer have one."""

    rank: int = 16
    alpha: float = 32.0
    modules: tuple[str, ...] = ALL_LINEAR

    def __post_init__(self) -> None:
        """`UsageError` by the field's name."""
        if not 1 <= self.rank <= 64:
            raise UsageError(f"lora.rank is {quoted(self.rank)}: from 1 to 64")
        if self.alpha <= 0:
            raise UsageError(f"lora.alpha is {quoted(self.alpha)}: give a positive number")
        if not self.modules:
            raise UsageError("lora.modules is empty: nothing would be trained")


@dataclass(frozen=True)
class GrpoRecipe:
    """Reinforcement learning. `rewards`: weight and function by name. `test`: problems for the accuracy
    before and after, by the reward `measured`. `rows`: tokens of a training step, which bound the memory
    of activations."""

    task: Task
    rewards: Mapping[str, tuple[float, Reward]]
    measured: str
    grpo: Grpo
    model: str = DEFAULT
    lora: Lora = field(default_factory=Lora)
    context: int = 512
    test: int = 400
    test_every: int = 0
    rows: int = 1024
    keep_every: int = 10

    def __post_init__(self) -> None:
        """`UsageError` by the field's name."""
        if self.measured not in self.rewards:
            raise UsageError(
                f"measured is {quoted(self.measured)}: one of the rewards {', '.join(self.rewards)}"
            )
        if self.test < 2:
            raise UsageError(f"test is {self.test}: give 2 problems or more, for an error of the share")
        if not any(weight for weight, _ in self.rewards.values()):
            raise UsageError("rewards: every weight is 0, so nothing would be learnt")


def read_recipe(path: Path) -> tuple[GrpoRecipe, str]:
    """What a file's `recipe()` gives, and a hash of its text."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {shortened(path)}: cannot be read: {error}") from error
    try:
        made = runpy.run_path(str(path)).get("recipe")
        found = made() if callable(made) else None
    except SampanError as error:
        raise UsageError(f"recipe {shortened(path)}: {error}") from error
    except Exception as error:
        raise UsageError(f"recipe {shortened(path)}: {type(error).__name__}: {error}") from error
    if not isinstance(found, GrpoRecipe):
        raise UsageError(f"recipe {shortened(path)}: has no function recipe() that gives a GrpoRecipe")
    return found, sha256(text.encode()).hexdigest()[:16]
