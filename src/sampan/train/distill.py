"""On-policy distillation: the model answers, and a teacher says of every token how likely it would have been
(reverse KL a token, arXiv:2306.13649). The teacher is another model of the same vocabulary, or the model
itself with more in its prompt, such as the solution (arXiv:2601.18734)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sampan.core.errors import UsageError
from sampan.core.types import SamplingParams
from sampan.envs.task import Problem, Task, told_of
from sampan.llm.model import LLM
from sampan.train.batch import Group
from sampan.train.loss import Loss, policy_loss
from sampan.train.parts import flat, offsets, parts, scored_logprobs, split
from sampan.train.rollout import Rollout, roll_out, told
from sampan.train.stage import Bench, Clock, Descent, Problems, Row, at_least
from sampan.train.student import Student

Asked = Callable[[Problem], str]
"""What the teacher is asked in place of the question."""


@dataclass(frozen=True, kw_only=True)
class Distill(Descent):
    """`teacher`, `adapter`: the model that is learnt from, or the model as it was before the stage. `asked`:
    what the teacher is asked in place of the question."""

    kind: ClassVar[str] = "distill"
    task: Task
    teacher: str | None = None
    adapter: Path | None = None
    asked: Asked | None = None
    problems: int = 8
    samples: int = 4
    max_tokens: int = 64
    different: int | None = None

    def __post_init__(self) -> None:
        """See `Stage`."""
        super().__post_init__()
        at_least(self, 1, "problems", "samples", "max_tokens")
        if self.teacher is None and self.adapter is None and self.asked is None:
            raise UsageError(
                "teacher: give one, or its adapter, or what it is asked: it would say what it knows"
            )

    @property
    def compares(self) -> bool:  # type: ignore[override]
        """With the model before the stage, where that is the teacher."""
        return self.teacher is None and self.adapter is None

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
        source = Problems(self.task, bench.seed, self.problems, self.different or self.steps * self.problems)
        with self._teacher(bench.student) as (llm, name):
            for number in range(bench.done, self.steps):
                yield self._step(bench, llm, name, source.of(number), number)

    def _step(
        self, bench: Bench, teacher: LLM, name: str | None, problems: Sequence[Problem], number: int
    ) -> Row:
        clock = Clock()
        student = bench.student
        first = (bench.seed << 40) + number * self.sequences
        sampling = SamplingParams(temperature=1.0, max_tokens=self.max_tokens, seed=first, logprobs=0)
        rollouts = roll_out(student, problems, {}, sampling, self.samples)
        clock.lap("rollout")
        asked = [self._asked(teacher, rollout) for rollout in rollouts]
        old = flat(value for rollout in rollouts for value in rollout.logprobs)
        gain = flat(scored_logprobs(teacher, asked, name)) - old
        clock.lap("teacher")
        groups = split([rollout.group for rollout in rollouts], student.rows)
        at, gap = offsets(groups), 0.0
        for part in parts(groups, student.rows):
            own = slice(at[part.start], at[part.stop])
            new = student.logprobs(groups[part.start : part.stop])
            gap = max(gap, float((new.detach() - old[own]).abs().max()))
            lengths = [
                len(tokens) for group in groups[part.start : part.stop] for tokens in group.continuations
            ]
            loss, _ = policy_loss(new, old[own], gain[own], lengths, Loss(), tokens=len(old))
            loss.backward()  # type: ignore[no-untyped-call]
        clock.lap("gradients")
        gradient = self.descend(bench, number)
        clock.lap("update")
        return {
            "number": number,
            "kl": -float(gain.mean()),
            **told(rollouts),
            "gap": gap,
            "gradient": gradient,
            "rate": self.rate_at(number),
            "seconds": clock.seconds,
        }

    def _asked(self, teacher: LLM, rollout: Rollout) -> Group:
        """The answers behind what the teacher is asked."""
        question = rollout.problem.question if self.asked is None else self.asked(rollout.problem)
        prompt = teacher.prompt([{"role": "user", "content": question}])
        return Group(tuple(teacher.encode(prompt, templated=True)), rollout.group.continuations)

    @contextmanager
    def _teacher(self, student: Student) -> Iterator[tuple[LLM, str | None]]:
        if self.compares:
            yield student.llm, Student.before
            return
        own = student.llm
        named = None if self.adapter is None else "teacher"
        with LLM(
            self.teacher or own.files,
            adapters=0 if named is None else 1,
            context=own.context,
            max_sequences=self.sequences,
        ) as llm:
            if llm.tokenizer.entries() != own.tokenizer.entries():
                raise UsageError(
                    f"teacher {llm.files.name} has another vocabulary: a token must mean the same to both"
                )
            if self.adapter is not None and named is not None:
                llm.load_adapter(named, self.adapter)
            yield llm, named
