"""Reinforcement learning on checkable answers: sample, check, and make what was better than its group
likelier."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch

from sampan.core.errors import UsageError
from sampan.core.types import SamplingParams
from sampan.envs.rewards import Reward
from sampan.envs.task import Problem, Task
from sampan.train.loss import Figures, Loss, advantages, policy_loss
from sampan.train.rollout import Rollout, roll_out
from sampan.train.student import Student


@dataclass(frozen=True)
class Grpo:
    """`problems`: of each step, `samples` answers to each, of `max_tokens` at most. `updates`: of the
    weights on the same answers. `rate`: of AdamW (arXiv:1711.05101), after `warmup` steps; gradients are
    cut to `norm`."""

    steps: int
    problems: int = 8
    samples: int = 8
    max_tokens: int = 64
    temperature: float = 1.0
    rate: float = 1e-4
    warmup: int = 2
    norm: float = 1.0
    updates: int = 1
    loss: Loss = field(default_factory=Loss)
    seed: int = 0

    def __post_init__(self) -> None:
        """`UsageError` by the field's name for what would not be obeyed."""
        if self.temperature != 1.0:
            raise UsageError(
                f"temperature is {self.temperature}: the trainer's probabilities are those at 1.0"
            )
        if self.loss.kl:
            raise UsageError("loss.kl: a run keeps no reference to diverge from yet")
        for name in ("steps", "problems", "max_tokens", "updates"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.samples < 2:
            raise UsageError(f"samples is {self.samples}: a group to compare has 2 or more")


@dataclass(frozen=True)
class Step:
    """What a step saw. `seconds`: by part. `gap`: the largest difference between a token's
    log-probability as it was sampled and as the trainer has it before its update: 0.0. `excluded`: why
    answers could not be checked."""

    number: int
    reward: float
    parts: Mapping[str, float]
    length: float
    cut: float
    still: float
    gap: float
    excluded: Sequence[str]
    figures: Figures
    gradient: float
    seconds: Mapping[str, float]
    rollouts: Sequence[Rollout]


def optimizer_of(student: Student, how: Grpo) -> torch.optim.Optimizer:
    """What changes the adapter."""
    return torch.optim.AdamW(student.adapter.parameters, lr=how.rate, weight_decay=0.0, betas=(0.9, 0.99))


def train(
    student: Student,
    task: Task,
    rewards: Mapping[str, tuple[float, Reward]],
    how: Grpo,
    optimizer: torch.optim.Optimizer,
    done: int = 0,
) -> Iterator[Step]:
    """The steps behind those that are `done`, each when it is done too."""
    problems = task.problems("train", how.seed, how.steps * how.problems)
    for number in range(done, how.steps):
        for group in optimizer.param_groups:
            group["lr"] = how.rate * min(1.0, (number + 1) / max(1, how.warmup))
        asked = problems[number * how.problems : (number + 1) * how.problems]
        yield _step(student, asked, rewards, how, number, optimizer)


def _step(
    student: Student,
    problems: Sequence[Problem],
    rewards: Mapping[str, tuple[float, Reward]],
    how: Grpo,
    number: int,
    optimizer: torch.optim.Optimizer,
) -> Step:
    seconds: dict[str, float] = {}
    clock = _Clock(seconds)
    seed = (how.seed << 32) + number * how.samples
    sampling = SamplingParams(temperature=how.temperature, max_tokens=how.max_tokens, seed=seed, logprobs=0)
    rollouts = roll_out(student, problems, rewards, sampling, how.samples)
    clock.lap("rollout")
    useful = [(rollout, advantages(rollout.rewards, how.loss.scale)) for rollout in rollouts]
    useful = [(rollout, own) for rollout, own in useful if any(own)]
    gap, figures, gradient = 0.0, Figures(0, 0, 0, 1, 1, 1, 0), 0.0
    if useful:
        for update in range(how.updates):
            apart, figures = _backward(student, useful, how.loss)
            gap = apart if update == 0 else gap
            clock.lap("gradients")
            parameters = student.adapter.parameters
            gradient = float(torch.nn.utils.clip_grad_norm_(parameters, how.norm))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            student.publish()
            clock.lap("update")
    answers = [answer for rollout in rollouts for answer in rollout.answers]
    return Step(
        number,
        fmean(value for rollout in rollouts for value in rollout.rewards),
        {name: fmean(value for rollout in rollouts for value in rollout.parts[name]) for name in rewards},
        fmean(answer.completion_tokens for answer in answers),
        fmean(answer.finish_reason == "length" for answer in answers),
        1 - len(useful) / len(rollouts),
        gap,
        [why for rollout in rollouts for why in rollout.excluded.values()],
        figures,
        gradient,
        seconds,
        rollouts,
    )


def _backward(
    student: Student, useful: Sequence[tuple[Rollout, Sequence[float]]], how: Loss
) -> tuple[float, Figures]:
    """Adds up the gradients of all parts that fit a training step."""
    answers = sum(len(rollout.answers) for rollout, _ in useful)
    tokens = sum(len(rollout.logprobs) for rollout, _ in useful)
    gap, found = 0.0, []
    for part in _parts(useful, student.rows):
        groups = [rollout.group for rollout, _ in part]
        old = torch.tensor([value for rollout, _ in part for value in rollout.logprobs], dtype=torch.float64)
        lengths = [len(own) for group in groups for own in group.continuations]
        gain = torch.tensor([value for _, own in part for value in own], dtype=torch.float64)
        new = student.logprobs(groups)
        gap = max(gap, float((new.detach() - old).abs().max()))
        loss, figures = policy_loss(new, old, gain, lengths, how, answers=answers, tokens=tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        found.append((sum(lengths) / tokens, figures))
    return gap, _together(found)


def _parts(
    useful: Sequence[tuple[Rollout, Sequence[float]]], rows: int
) -> Iterator[list[tuple[Rollout, Sequence[float]]]]:
    """Rollouts that fit one training step together."""
    part: list[tuple[Rollout, Sequence[float]]] = []
    used = 0
    for rollout, own in useful:
        size = rollout.group.rows
        if part and used + size > rows:
            yield part
            part, used = [], 0
        part.append((rollout, own))
        used += size
    yield part


def _together(found: Sequence[tuple[float, Figures]]) -> Figures:
    """Of parts with their shares of the tokens."""
    every = [figures for _, figures in found]

    def mean(name: str) -> float:
        return sum(share * float(getattr(figures, name)) for share, figures in found)

    return Figures(
        sum(figures.loss for figures in every), mean("clipped_low"), mean("clipped_high"),
        min(figures.ratio_least for figures in every), mean("ratio_mean"),
        max(figures.ratio_most for figures in every), mean("kl"),
    )  # fmt: skip


class _Clock:
    """Adds up the seconds of each part."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now
