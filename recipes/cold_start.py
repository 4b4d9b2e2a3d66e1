"""Sums of three numbers of two digits, which the model cannot add up at first: worked solutions teach it how
(a cold start), and reinforcement does the rest."""

from sampan.envs.answers import last_number
from sampan.envs.gym import GymTask
from sampan.envs.rewards import correct
from sampan.envs.worked import solutions
from sampan.train.data import Worked
from sampan.train.grpo import Grpo
from sampan.train.loss import Loss
from sampan.train.recipe import Measure, Recipe
from sampan.train.sft import Sft


def recipe() -> Recipe:
    task = GymTask("chain_sum", min_terms=3, max_terms=3, min_digits=2, max_digits=2)
    right = correct(task, last_number)
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
        steps=40,
        problems=16,
        samples=8,
        max_tokens=96,
        rate=4e-5,
        decay="linear",
        loss=Loss(scale="std"),
    )
    return Recipe(stages=(cold, grpo), tests={"sums of three": Measure(task, right, max_tokens=96)})
