"""A run: every problem of every task asked, each answer checked, and each kept as soon as it is there.

A run that was killed goes on where its last line is; with answers that can be repeated (greedy, or seeded)
it ends with the same ones. A check that breaks is told and counted apart, never as a wrong answer.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256

from sampan.core.errors import EnvError, UsageError
from sampan.core.types import SamplingParams
from sampan.envs.task import Problem
from sampan.evals.asker import Answered, Asker, Messages
from sampan.evals.benchmark import Benchmark
from sampan.evals.sample import RunFolder, Sample

Tell = Callable[[Sample], None]


@dataclass(frozen=True)
class Plan:
    """What is asked. `problems`: of each task. `sampling`: of every answer, whose seed is drawn from `seed`,
    the problem and the answer's number, so that it does not depend on what else is asked. `samples`: answers
    to each problem. `likelihood`: multiple choice by the likeliest continuation, without an answer.
    `max_tokens`: instead of each task's own. `system`: the system message."""

    tasks: tuple[Benchmark, ...]
    problems: tuple[Sequence[Problem], ...]
    sampling: SamplingParams
    samples: int = 1
    seed: int = 0
    likelihood: bool = False
    max_tokens: int | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        """Refuses what would measure nothing, or not what it says."""
        if not self.tasks:
            raise UsageError("tasks: there is none")
        if self.samples > 1 and self.likelihood:
            raise UsageError("samples: likelihoods are the same each time: one is enough")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise UsageError(
                f"samples is {self.samples} at temperature 0: they would all be the same; give a temperature"
            )
        for task, problems in zip(self.tasks, self.problems, strict=True):
            if not problems:
                raise UsageError(f"task {task.name}: has no problem")
            if self.likelihood and task.options(problems[0]) is None:
                raise UsageError(f"task {task.name}: is no multiple choice: there are no likelihoods of it")

    @property
    def size(self) -> int:
        """Answers in all."""
        return self.samples * sum(map(len, self.problems))


@dataclass(frozen=True)
class _Item:
    task: int
    problem: Problem
    number: int


def run(plan: Plan, asker: Asker, folder: RunFolder, *, tell: Tell, done: Sequence[Sample] = ()) -> None:
    """Ask what is not `done` yet, and keep each answer in the folder. `tell` is called with each that is
    kept. Raises `SampanError` for a question that gets no answer; what was answered before it is kept."""
    asyncio.run(_Run(plan, asker, folder, tell).all({sample.place for sample in done}))


class _Run:
    def __init__(self, plan: Plan, asker: Asker, folder: RunFolder, tell: Tell) -> None:
        self._plan, self._asker, self._folder, self._tell = plan, asker, folder, tell
        self._last = time.perf_counter()
        # One at a time: checks must not take the processor that answers need, and some have one process.
        self._checks = ThreadPoolExecutor(1, "checks")

    async def all(self, done: set[tuple[int, str, int]]) -> None:
        items = (item for item in self._items() if (item.task, item.problem.key, item.number) not in done)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._asker.concurrency):
                    group.create_task(self._work(items))
        except* Exception as errors:
            raise _first(errors) from None
        finally:
            self._checks.shutdown(cancel_futures=True)
            await self._asker.close()

    def _items(self) -> Iterator[_Item]:
        for place, problems in enumerate(self._plan.problems):
            for problem in problems:
                for number in range(self._plan.samples):
                    yield _Item(place, problem, number)

    async def _work(self, items: Iterator[_Item]) -> None:
        for item in items:
            task = self._plan.tasks[item.task]
            sample = await (self._ranked if self._plan.likelihood else self._answered)(item, task)
            now = time.perf_counter()
            self._last, spent = now, now - self._last
            sample = replace(sample, spent=spent)
            self._folder.add(sample)
            self._tell(sample)

    async def _answered(self, item: _Item, task: Benchmark) -> Sample:
        question = task.question(item.problem)
        messages: Messages = [{"role": "user", "content": question}]
        if self._plan.system is not None:
            messages.insert(0, {"role": "system", "content": self._plan.system})
        sampling = replace(
            self._plan.sampling,
            seed=seed_of(self._plan.seed, task.name, item.problem.key, item.number),
            max_tokens=self._plan.max_tokens or task.max_tokens,
        )
        answer = await self._asker.ask(messages, sampling)
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        extracted, score, error = await loop.run_in_executor(
            self._checks, _checked, task, item.problem, answer
        )
        return Sample(
            item.task, item.problem.key, item.number, question, item.problem.answer, answer.text,
            answer.reasoning, extracted, score, None, error, answer.finish_reason, sampling.seed,
            answer.prompt_tokens, answer.tokens, answer.seconds, time.perf_counter() - started,
            kept=answer.kept,
        )  # fmt: skip

    async def _ranked(self, item: _Item, task: Benchmark) -> Sample:
        options = task.options(item.problem)
        if options is None:
            raise UsageError(f"task {task.name}: {item.problem.question[:60]!r} has no options")
        ranked = await self._asker.rank(options)
        right = options.continuations[options.right]
        return Sample(
            item.task, item.problem.key, item.number, options.context, right,
            options.continuations[ranked.best], score=float(ranked.best == options.right),
            normalised=float(ranked.best_normalised == options.right), finish_reason="likelihood",
            prompt_tokens=ranked.tokens, seconds=ranked.seconds,
        )  # fmt: skip


def _checked(
    task: Benchmark, problem: Problem, answer: Answered
) -> tuple[str | None, float | None, str | None]:
    """What was extracted, its score, and why there is none."""
    try:
        return task.answer_in(problem, answer.text), task.check(problem, answer.text), None
    except EnvError as error:
        return None, None, str(error)


def seed_of(seed: int, task: str, problem: str, number: int) -> int:
    """Of one answer, of 31 bits, which every server takes: another for each problem, the same whatever else
    is asked."""
    said = f"{seed}\0{task}\0{problem}\0{number}"
    return int.from_bytes(sha256(said.encode()).digest()[:4]) >> 1


def _first(errors: ExceptionGroup) -> BaseException:
    """Of a group, the first that stands for itself."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
