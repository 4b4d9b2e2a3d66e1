"""Sums of three numbers of one digit. What it takes to learn them is not settled yet."""

from sampan.envs.answers import last_number
from sampan.envs.gym import GymTask
from sampan.envs.rewards import correct
from sampan.train.grpo import Grpo
from sampan.train.recipe import GrpoRecipe


def recipe() -> GrpoRecipe:
    task = GymTask(
        "chain_sum", "\nGive only the answer.", min_terms=3, max_terms=3, min_digits=1, max_digits=1
    )
    return GrpoRecipe(
        task=task,
        rewards={"right": (1.0, correct(task, last_number))},
        measured="right",
        grpo=Grpo(steps=200, problems=8, samples=8, max_tokens=32, rate=3e-4),
    )
