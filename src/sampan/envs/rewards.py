"""What an answer earns, made of a task's check and of what else is wanted (`form.py`). Each is a
function of a problem and an answer; a run adds them up by weight."""

from collections.abc import Callable, Mapping

from sampan.core.types import Completion
from sampan.envs.task import Problem, Task

Reward = Callable[[Problem, Completion], float]
Extract = Callable[[str], str | None]
"""The answer within a text, None where there is none (see `answers.py`)."""


def correct(task: Task, extract: Extract, least: float = 0.99) -> Reward:
    """1 where the task gives the extracted answer at least this score, otherwise 0. An answer that was
    cut, or has nothing to extract, earns 0."""

    def reward(problem: Problem, answer: Completion) -> float:
        found = extract(answer.text)
        return 0.0 if found is None else float(task.check(problem, found) >= least)

    return reward


def scored(task: Task, extract: Extract) -> Reward:
    """The task's own score of the extracted answer, from 0 to 1."""

    def reward(problem: Problem, answer: Completion) -> float:
        found = extract(answer.text)
        return 0.0 if found is None else task.check(problem, found)

    return reward


def ended(_problem: Problem, answer: Completion) -> float:
    """1 for an answer that the model ended itself."""
    return float(answer.finish_reason == "stop")


def overlong(longest: int, buffer: int) -> Reward:
    """0 up to `longest - buffer` tokens, then falling to -1 at `longest` (soft overlong punishment,
    arXiv:2503.14476)."""

    def reward(_problem: Problem, answer: Completion) -> float:
        return -min(1.0, max(0.0, (answer.completion_tokens - (longest - buffer)) / buffer))

    return reward


def together(parts: Mapping[str, tuple[float, Reward]]) -> Reward:
    """One reward of several, by name: each with its weight."""

    def reward(problem: Problem, answer: Completion) -> float:
        return sum(weight * part(problem, answer) for weight, part in parts.values())

    return reward
