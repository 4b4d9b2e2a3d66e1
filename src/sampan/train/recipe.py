"""A recipe: a Python file with a function `recipe` that gives a `Recipe`."""

import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path

from sampan.catalog.catalog import DEFAULT
from sampan.core.errors import SampanError, UsageError, quoted, shortened
from sampan.envs.rewards import Reward
from sampan.envs.task import Task, told_of
from sampan.train.full import Full
from sampan.train.samples import Samples
from sampan.train.sft import Sft
from sampan.train.stage import Stage

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Lora:
    """`alpha` / `rank` is the scale of the product; `modules`: which linears of each layer have one. `start`:
    an adapter, as PEFT or llama.cpp have it, whose numbers training goes on with."""

    rank: int = 16
    alpha: float = 32.0
    modules: tuple[str, ...] = ALL_LINEAR
    start: Path | None = None

    def __post_init__(self) -> None:
        """`UsageError` by the field's name."""
        if not 1 <= self.rank <= 64:
            raise UsageError(f"lora.rank is {quoted(self.rank)}: from 1 to 64")
        if self.alpha <= 0:
            raise UsageError(f"lora.alpha is {quoted(self.alpha)}: give a positive number")
        if not self.modules:
            raise UsageError("lora.modules is empty: nothing would be trained")
        if self.start is not None and not Path(self.start).exists():
            raise UsageError(f"lora.start is {shortened(self.start)}: there is no such adapter")

    @property
    def sources(self) -> tuple[str, ...]:
        """What it starts from, with a hash of it."""
        if self.start is None:
            return ()
        start = Path(self.start)
        path = start / "adapter_model.safetensors" if start.is_dir() else start
        with path.open("rb") as file:
            return (f"adapter {start.name} {file_digest(file, 'sha256').hexdigest()[:16]}",)


@dataclass(frozen=True)
class Measure:
    """What is told of the model before, between and after: the mean of a reward over so many problems that
    training never sees, answered greedily."""

    task: Task
    reward: Reward
    problems: int = 400
    max_tokens: int = 64

    def __post_init__(self) -> None:
        """`UsageError` by the field's name."""
        if self.problems < 2:
            raise UsageError(f"problems is {self.problems}: give 2 or more, for an error of the mean")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`stages`, one after another on the same weights: an adapter's, or with `lora=None` and `full` the
    model's own. `tests`: by name, before the first stage, after each,
    and every `test_every` steps (0: not in between). `rows`: tokens of a training step, which bound the
    memory of activations. A checkpoint is kept every `keep_every` steps."""

    stages: tuple[Stage, ...]
    tests: Mapping[str, Measure] = field(default_factory=dict)
    model: str = DEFAULT
    lora: Lora | None = field(default_factory=Lora)
    full: Full | None = None
    context: int = 512
    rows: int = 1024
    seed: int = 0
    keep_every: int = 10
    test_every: int = 0

    def __post_init__(self) -> None:
        """`UsageError` by the field's name."""
        if not self.stages:
            raise UsageError("stages is empty: nothing would be done")
        for name in ("context", "rows", "keep_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {quoted(getattr(self, name))}: give 1 or more")
        if (self.lora is None) == (self.full is None):
            raise UsageError("lora and full: give one of them, and lora=None beside full")
        if self.full and any(stage.compares for stage in self.stages):
            place = next(place for place, stage in enumerate(self.stages) if stage.compares)
            raise UsageError(
                f"stages[{place}] looks at the model as it was before, which training of the weights "
                "themselves writes over: take lora, or leave it out"
            )
        self._check_stages()

    @property
    def sources(self) -> tuple[str, ...]:
        """What is learnt from and measured with, each once, by names that say all that this depends on."""
        found = list(self.lora.sources) if self.lora else []
        found += [source for stage in self.stages for source in stage.sources]
        return tuple(dict.fromkeys([*found, *(told_of(test.task) for test in self.tests.values())]))

    def _check_stages(self) -> None:
        before: Stage | None = None
        for place, stage in enumerate(self.stages):
            if isinstance(stage, Sft) and stage.afresh and (self.full or before is None):
                why = "is for adapters" if self.full else "does nothing in the first stage"
                raise UsageError(f"stages[{place}].afresh {why}")
            if isinstance(stage, Sft) and stage.data is None and not isinstance(before, Samples):
                raise UsageError(f"stages[{place}].data: there is none, and no stage of samples before it")
            if isinstance(before, Samples) and not (isinstance(stage, Sft) and stage.data is None):
                raise UsageError(f"stages[{place - 1}]: nothing learns from its samples")
            before = stage
        if isinstance(before, Samples):
            raise UsageError(f"stages[{len(self.stages) - 1}]: nothing learns from its samples")


def read_recipe(path: Path) -> tuple[Recipe, str]:
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
    if not isinstance(found, Recipe):
        raise UsageError(f"recipe {shortened(path)}: has no function recipe() that gives a Recipe")
    return found, sha256(text.encode()).hexdigest()[:16]
