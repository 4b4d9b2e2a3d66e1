"""The recipe of DeepSeek-R1 (arXiv:2501.12948), small: a cold start on worked solutions, reinforcement of
right answers in the right form, the best answers as data for a model that begins anew, reinforcement again,
and distillation into the model as it was."""

from sampan.envs.answers import tagged
from sampan.envs.form import formatted
from sampan.envs.gym import GymTask
from sampan.envs.rewards import correct
from sampan.envs.worked import solutions
from sampan.train.data import Worked
from sampan.train.grpo import Grpo
from sampan.train.loss import Loss
from sampan.train.recipe import Measure, Recipe
from sampan.train.samples import Samples
from sampan.train.sft import Sft


def recipe() -> Recipe:
    task = GymTask("chain_sum", min_terms=2, max_terms=3, min_digits=1, max_digits=2)
    right = correct(task, tagged)
    rewards = {"right": (1.0, right), "form": (0.2, formatted())}
    worked = Worked(task, solutions(task, tagged=True), 4000)
    cold = Sft(data=worked, steps=150, examples=16, rate=1e-3, warmup=10, decay="linear")
    grpo = Grpo(
        task=task, rewards=rewards, steps=40, problems=16, samples=8, max_tokens=112, rate=1e-4,
        loss=Loss(scale="std"),
    )  # fmt: skip
    best = Samples(task=task, rewards=rewards, least=1.2, steps=16, problems=64, samples=4, max_tokens=112)
    learn = Sft(steps=100, examples=16, rate=1e-3, warmup=10, decay="linear", afresh=True)
    return Recipe(
        stages=(cold, grpo, best, learn, grpo, best, learn),
        tests={"sums": Measure(task, right, max_tokens=112)},
    )
