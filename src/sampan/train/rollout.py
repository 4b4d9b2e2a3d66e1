"""What the engine sampled: answers with the log-probabilities that they were sampled with, and their
rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from sampan.core.errors import EnvError
from sampan.core.types import Completion, SamplingParams
from sampan.envs.rewards import Reward
from sampan.envs.task import Problem
from sampan.train.batch import Group
from sampan.train.student import Student


@dataclass(frozen=True)
class Rollout:
    """A problem's answers. `rewards`: of each, weighted and summed; `parts`: by the reward's name.
    `version`: of the adapter that gave every token. `excluded`: places of answers that could not be
    checked, and why."""

    problem: Problem
    prompt: tuple[int, ...]
    answers: tuple[Completion, ...]
    rewards: tuple[float, ...]
    parts: Mapping[str, tuple[float, ...]]
    version: int
    excluded: Mapping[int, str]

    @property
    def group(self) -> Group:
        """What is trained on."""
        return Group(self.prompt, tuple(answer.tokens for answer in self.answers))

    @property
    def logprobs(self) -> list[float]:
        """Of every answer's tokens in turn, as they were sampled."""
        return [token.logprob for answer in self.answers for token in answer.logprobs]


def roll_out(
    student: Student,
    problems: Sequence[Problem],
    rewards: Mapping[str, tuple[float, Reward]],
    sampling: SamplingParams,
    samples: int,
) -> list[Rollout]:
    """`samples` answers to each problem. `rewards`: by name, with its weight."""
    llm = student.llm
    prompts = [
        llm.encode(llm.prompt([{"role": "user", "content": problem.question}]), templated=True)
        for problem in problems
    ]
    answers = student.sample(prompts, [sampling] * len(prompts), samples)
    rollouts = [
        _rewarded(problem, prompt, own, rewards, student.version)
        for problem, prompt, own in zip(problems, prompts, answers, strict=True)
    ]
    if not any(rollout.answers for rollout in rollouts):
        first = next(why for rollout in rollouts for why in rollout.excluded.values())
        raise EnvError(f"not one of {len(rollouts)} problems' answers could be checked: {first}")
    return rollouts


def _rewarded(
    problem: Problem,
    prompt: Sequence[int],
    answers: Sequence[Completion],
    rewards: Mapping[str, tuple[float, Reward]],
    version: int,
) -> Rollout:
    kept: list[Completion] = []
    parts: dict[str, list[float]] = {name: [] for name in rewards}
    excluded: dict[int, str] = {}
    for place, answer in enumerate(answers):
        try:
            values = {name: reward(problem, answer) for name, (_, reward) in rewards.items()}
        except EnvError as error:
            excluded[place] = str(error)
            continue
        for name, value in values.items():
            if not isfinite(value):
                raise EnvError(
                    f"the reward {name!r} is {value} for {answer.text!r}, an answer to {problem.question!r}"
                )
            parts[name].append(value)
        kept.append(answer)
    sums = tuple(sum(rewards[name][0] * parts[name][i] for name in rewards) for i in range(len(kept)))
    found = {name: tuple(values) for name, values in parts.items()}
    return Rollout(problem, tuple(prompt), tuple(kept), sums, found, version, excluded)
