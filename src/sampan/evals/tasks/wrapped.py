"""Tasks of `envs` as benchmarks."""

from collections.abc import Callable, Sequence
from functools import cached_property

from sampan.core.errors import EnvError
from sampan.envs.answers import tagged, whole
from sampan.envs.task import Problem, Task, key_of
from sampan.evals.benchmark import DEFAULT_LIMIT, About, Options
from sampan.evals.tasks.said import boxed, line_of, marked, spoken

_ASK = "\n\nEnd with your answer between <answer> and </answer>."
_SOURCES = {
    "file": ("a class of your own", "not published"),
    "gym": ("reasoning-gym (arXiv:2505.24760)", "Apache-2.0, by the package's metadata"),
    "humaneval": ("a file of your own", "not published"),
    "jsonl": ("a file of your own", "not published"),
}
_OWN = ("made by sampan", "Apache-2.0")


class Wrapped:
    """See `Benchmark`. Of a file all problems in its order, otherwise those for testing. Where a task does
    not find answers in texts itself, and no `hint` says how to answer, they are asked for between tags."""

    max_tokens = 1024

    def __init__(self, name: str, task: Task) -> None:
        self.name, self._task = name, task
        self._all: Sequence[Problem] | None = getattr(task, "all_problems", None)
        self._extract: Callable[[str], str | None] | None = getattr(task, "extract", None)

    @cached_property
    def about(self) -> About:
        """See `Benchmark`."""
        return About(*_SOURCES.get(self.name.partition(":")[0], _OWN), key_of(self._task))

    @property
    def size(self) -> int | None:
        """See `Benchmark`."""
        return None if self._all is None else len(self._all)

    def problems(self, seed: int, limit: int | None) -> Sequence[Problem]:
        """See `Benchmark`. Some tasks have not so many: then as many as there are."""
        if self._all is not None:
            return self._all[:limit]
        return self._most(seed, DEFAULT_LIMIT if limit is None else limit)

    def question(self, problem: Problem) -> str:
        """The task's own."""
        tags = self._extract is None and not getattr(self._task, "hint", "")
        return problem.question + (_ASK if tags else "")

    def check(self, problem: Problem, text: str) -> float:
        """The task's own. Raises `EnvError` where it cannot tell."""
        found = self._found(text)
        return 0.0 if found is None else self._task.check(problem, found)

    def answer_in(self, problem: Problem, text: str) -> str | None:
        """What the task finds, or what its check compares."""
        compared = getattr(self._task, "compared", None)
        found = self._found(text)
        return found if compared is None or found is None else compared(problem, found)

    def options(self, problem: Problem) -> Options | None:
        """Of tasks whose answer is one of a few words: those."""
        labels: tuple[str, ...] | None = getattr(self._task, "labels", None)
        if labels is None:
            return None
        return Options(f"{problem.question}\nAnswer: ", labels, labels.index(problem.answer))

    def _most(self, seed: int, wanted: int) -> Sequence[Problem]:
        """Raises `EnvError` where there is not one."""
        try:
            return self._task.problems("test", seed, wanted)
        except EnvError:
            if wanted <= 1:
                raise
        least = self._task.problems("test", seed, 1)
        while wanted - len(least) > 1:
            middle = (len(least) + wanted) // 2
            try:
                least = self._task.problems("test", seed, middle)
            except EnvError:
                wanted = middle
        return least

    def _found(self, text: str) -> str | None:
        said = spoken(text)
        if self._extract is not None:
            return self._extract(said)
        if (found := tagged(said) or boxed(said)) is not None:
            return found
        return next((line_of(rest).rstrip(" *_.") for rest in marked(said)), None) or whole(said)
