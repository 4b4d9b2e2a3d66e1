"""Whether a statement about kinds of things follows from two others: worked proofs teach how to find out."""

from sampan.envs.inference.syllogisms import Syllogisms
from sampan.envs.rewards import correct
from sampan.envs.worked import solutions
from sampan.train.data import Worked
from sampan.train.recipe import Measure, Recipe
from sampan.train.sft import Sft


def recipe() -> Recipe:
    task = Syllogisms(plain=True)
    right = correct(task, task.extract)
    proofs = Sft(
        data=Worked(task, solutions(task), 4000),
        steps=80,
        examples=16,
        rate=1e-3,
        warmup=10,
        decay="linear",
    )
    return Recipe(stages=(proofs,), tests={"syllogisms": Measure(task, right, max_tokens=96)})
