"""Whether a statement about kinds of things follows from two others: worked proofs teach how to find out, and
reinforcement does the rest."""

from sampan.envs.inference.syllogisms import Syllogisms
from sampan.envs.rewards import correct
from sampan.envs.worked import solutions
from sampan.train.data import Worked
from sampan.train.grpo import Grpo
from sampan.train.loss import Loss
from sampan.train.recipe import Measure, Recipe
from sampan.train.sft import Sft


def recipe() -> Recipe:
    task = Syllogisms(plain=True)
    right = correct(task, task.extract)
    cold = Sft(
        data=Worked(task, solutions(task), 4000),
        steps=80,
        examples=16,
        rate=1e-3,
        warmup=10,
        decay="linear",
    )
    grpo = Grpo(
        task=task,
        rewards={"right": (1.0, right)},
        steps=10,
        problems=16,
        samples=8,
        max_tokens=96,
        rate=4e-5,
        decay="linear",
        loss=Loss(scale="std"),
    )
    return Recipe(stages=(cold, grpo), tests={"syllogisms": Measure(task, right, max_tokens=96)})
