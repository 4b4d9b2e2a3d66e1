"""Sums and differences again, from a teacher instead of a reward: the model itself, told the solution
(self-distillation, arXiv:2601.18734)."""

from sampan.envs.answers import last_number
from sampan.envs.gym import GymTask
from sampan.envs.rewards import correct
from sampan.envs.task import Problem
from sampan.train.distill import Distill
from sampan.train.recipe import Measure, Recipe


def recipe() -> Recipe:
    task = GymTask(
        "chain_sum", "\nAnswer with the number only.", min_terms=2, max_terms=2, min_digits=1, max_digits=2
    )
    distill = Distill(
        task=task,
        asked=solved,
        steps=40,
        problems=16,
        samples=4,
        max_tokens=16,
        rate=2e-4,
        decay="linear",
    )
    return Recipe(stages=(distill,), tests={"sums": Measure(task, correct(task, last_number), max_tokens=16)})


def solved(problem: Problem) -> str:
    """What the teacher is asked."""
    return f"{problem.question}\nThe solution is: {problem.answer}"
