"""Small functions in Python, run in the sandbox."""

from sampan.envs.programs import Programs
from sampan.envs.rewards import correct
from sampan.train.grpo import Grpo
from sampan.train.loss import Loss
from sampan.train.recipe import Measure, Recipe


def recipe() -> Recipe:
    task = Programs()
    right = correct(task, task.extract)
    grpo = Grpo(
        task=task,
        rewards={"right": (1.0, right)},
        steps=30,
        problems=8,
        samples=8,
        max_tokens=96,
        rate=2e-4,
        loss=Loss(scale="std"),
    )
    return Recipe(stages=(grpo,), tests={"programs": Measure(task, right, max_tokens=96)})
