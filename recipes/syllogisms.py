"""Whether a statement about kinds of things follows from two others."""

from sampan.envs.inference.syllogisms import Syllogisms
from sampan.envs.rewards import correct
from sampan.train.grpo import Grpo
from sampan.train.loss import Loss
from sampan.train.recipe import Measure, Recipe


def recipe() -> Recipe:
    task = Syllogisms(plain=True)
    right = correct(task, task.extract)
    grpo = Grpo(
        task=task,
        rewards={"right": (1.0, right)},
        steps=80,
        problems=16,
        samples=8,
        max_tokens=16,
        rate=2e-4,
        loss=Loss(scale="std"),
    )
    return Recipe(stages=(grpo,), tests={"syllogisms": Measure(task, right, max_tokens=16)})
