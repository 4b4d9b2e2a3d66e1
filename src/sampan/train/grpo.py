"""Reinforcement learning on checkable answers: sample, check, and make what was better than its group
likelier."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from torch import Tensor

from sampan.core.errors import UsageError
from sampan.core.types import SamplingParams
from sampan.envs.rewards import Reward
from sampan.envs.task import Problem, Task, told_of
from sampan.train.batch import Group
from sampan.train.loss import Figures, Loss, advantages, of_tokens, policy_loss
from sampan.train.parts import answer_offsets, flat, offsets, parts, scored_logprobs, split
from sampan.train.rollout import Rollout, roll_out, told
from sampan.train.stage import Bench, Clock, Descent, Problems, Row, at_least
from sampan.train.student import Student


@dataclass(frozen=True, kw_only=True)
class Grpo(Descent):
    """`rewards`: weight and function by name. `problems`: of each step, `samples` answers to each, of
    `max_tokens` at most; `different`: problems that there are in all, as many as the steps take unless
    given. `temperature`: of what is drawn, whose probabilities are learnt too; answers are drawn from all
    tokens, as the rest after top-k, top-p or min-p would be another distribution from update to update.
    `resample`: how many times more problems are asked in a step whose groups have no spread (DAPO's
    dynamic sampling). `updates`: of the weights on the same answers."""

    kind: ClassVar[str] = "grpo"
    task: Task
    rewards: Mapping[str, tuple[float, Reward]]
    problems: int = 8
    samples: int = 8
    max_tokens: int = 64
    temperature: float = 1.0
    different: int | None = None
    resample: int = 0
    updates: int = 1
    loss: Loss = field(default_factory=Loss)

    def __post_init__(self) -> None:
        """See `Stage`."""
        super().__post_init__()
        at_least(self, 1, "problems", "max_tokens", "updates")
        at_least(self, 0, "resample")
        if not 0.0 < self.temperature <= 100.0:
            raise UsageError(f"temperature is {self.temperature}: it must lie above 0, up to 100")
        if self.samples < 2:
            raise UsageError(f"samples is {self.samples}: a group to compare has 2 or more")
        if not any(weight for weight, _ in self.rewards.values()):
            raise UsageError("rewards: every weight is 0, so nothing would be learnt")
        if self.updates == 1:
            self.loss.check_on_policy()

    @property
    def compares(self) -> bool:  # type: ignore[override]
        """With the model before the stage, where the loss looks at it."""
        return self.loss.kl > 0

    @property
    def sequences(self) -> int:
        """See `Stage`."""
        return self.problems * self.samples

    @property
    def sources(self) -> tuple[str, ...]:
        """See `Stage`."""
        return (told_of(self.task),)

    def train(self, bench: Bench) -> Iterator[Row]:
        """See `Stage`."""
        each = self.problems * (1 + self.resample)
        source = Problems(self.task, bench.seed, each, self.different or self.steps * each)
        for number in range(bench.done, self.steps):
            yield self._step(bench, source.of(number), number)

    def _step(self, bench: Bench, problems: Sequence[Problem], number: int) -> Row:
        clock = Clock()
        rollouts = list(self._sampled(bench, problems, number))
        clock.lap("rollout")
        useful = [rollout for rollout in rollouts if rollout.spread]
        gap, figures, gradient, entropy = 0.0, Figures.none(), 0.0, None
        if useful:
            batch = _Batch.of(bench.student, useful, self.loss, self.temperature)
            clock.lap("reference")
            for update in range(self.updates):
                apart, uncertain, figures = batch.backward(bench.student, self.loss)
                if update == 0:
                    gap, entropy = apart, uncertain
                clock.lap("gradients")
                gradient = self.descend(bench, number)
                clock.lap("update")
        return {
            "number": number,
            **told(rollouts),
            "gap": gap,
            "entropy": entropy,
            "figures": asdict(figures),
            "gradient": gradient,
            "rate": self.rate_at(number),
            "seconds": clock.seconds,
        }

    def _sampled(self, bench: Bench, problems: Sequence[Problem], number: int) -> Iterator[Rollout]:
        """Of as many of the problems as it takes for enough groups with a spread."""
        missing = self.problems
        for turn in range(1 + self.resample):
            if not missing:
                return
            asked = problems[turn * self.problems :][:missing]
            first = (bench.seed << 40) + (number * (1 + self.resample) + turn) * self.sequences
            sampling = SamplingParams(
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                seed=first,
                logprobs=0,
                tempered=True,
            )
            for rollout in roll_out(bench.student, asked, self.rewards, sampling, self.samples):
                missing -= rollout.spread
                yield rollout


@dataclass(frozen=True)
class _Batch:
    """What a step learns from. `gain`: of each answer; `old`, `before`: log-probabilities of every token, as
    it was sampled and as the model before the stage has it."""

    groups: Sequence[Group]
    gain: Sequence[float]
    old: Tensor
    before: Tensor | None
    temperature: float

    @classmethod
    def of(cls, student: Student, rollouts: Sequence[Rollout], how: Loss, temperature: float) -> "_Batch":
        groups = split([rollout.group for rollout in rollouts], student.rows)
        gain = [value for rollout in rollouts for value in advantages(rollout.rewards, how.scale)]
        old = flat(value for rollout in rollouts for value in rollout.logprobs)
        before = flat(scored_logprobs(student.llm, groups, Student.before, temperature)) if how.kl else None
        return cls(groups, gain, old, before, temperature)

    def backward(self, student: Student, how: Loss) -> tuple[float, float, Figures]:
        """Adds up the gradients of all parts that fit a training step. Also the largest difference between
        a token's log-probability as it was sampled and as the trainer has it, and the policy's entropy in
        nats, the mean over tokens."""
        at = offsets(self.groups)
        answers = answer_offsets(self.groups)
        gap, entropy, found = 0.0, 0.0, []
        for part in parts(self.groups, student.rows):
            tokens = slice(at[part.start], at[part.stop])
            groups = self.groups[part.start : part.stop]
            lengths = [len(own) for group in groups for own in group.continuations]
            new, entropies = student.judged(groups, self.temperature)
            entropy += float(entropies.sum()) / len(self.old)
            gap = max(gap, float((new.detach() - self.old[tokens]).abs().max()))
            loss, figures = policy_loss(
                new,
                self.old[tokens],
                of_tokens(self.gain[answers[part.start] : answers[part.stop]], lengths),
                lengths,
                how,
                reference=None if self.before is None else self.before[tokens],
                answers=len(self.gain),
                tokens=len(self.old),
            )
            loss.backward()  # type: ignore[no-untyped-call]
            found.append((sum(lengths) / len(self.old), figures))
        return gap, entropy, Figures.together(found)
