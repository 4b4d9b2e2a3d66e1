"""Sums and differences of two numbers of one or two digits. Products and the counting of letters are tested
too, which nothing here trains."""

from sampan.envs.answers import last_number
from sampan.envs.gym import GymTask
from sampan.envs.rewards import correct
from sampan.train.grpo import Grpo
from sampan.train.loss import Loss
from sampan.train.recipe import Measure, Recipe


def recipe() -> Recipe:
    task = GymTask(
        "chain_sum", "\nAnswer with the number only.", min_terms=2, max_terms=2, min_digits=1, max_digits=2
    )
    right = correct(task, last_number)
    grpo = Grpo(
        task=task,
        rewards={"right": (1.0, right)},
        steps=150,
        problems=16,
        samples=8,
        max_tokens=16,
        rate=2e-4,
        decay="linear",
        loss=Loss(scale="std"),
    )
    tests = {"sums": Measure(task, right, max_tokens=16)}
    products = GymTask(
        "products", "\nGive only the answer.", min_terms=2, max_terms=2, min_digits=1, max_digits=2
    )
    letters = GymTask("letter_counting", "\nGive only the answer.")
    for name, other in {"products": products, "letters": letters}.items():
        tests[name] = Measure(other, correct(other, last_number))
    return Recipe(stages=(grpo,), tests=tests)
