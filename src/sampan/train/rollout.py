"""What the engine sampled: answers with the log-probabilities that they were sampled with, and their
rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean, pstdev
from typing import Any, ClassVar, Protocol

from sampan.core.errors import EnvError
from sampan.core.types import Completion, SamplingParams
from sampan.envs.rewards import Reward
from sampan.envs.task import Problem
from sampan.llm.model import LLM
from sampan.train.batch import Group


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

    @property
    def spread(self) -> bool:
        """Whether its answers are not all worth the same."""
        return len(set(self.rewards)) > 1


class Sampler(Protocol):
    """Who answers. `version`: of the weights that do."""

    @property
    def llm(self) -> LLM: ...

    @property
    def version(self) -> int: ...

    def sample(
        self, prompts: list[list[int]], sampling: Sequence[SamplingParams], n: int
    ) -> list[list[Completion]]:
        """`n` answers to each prompt, each prompt with its own sampling."""


@dataclass(frozen=True)
class Answerer:
    """A model that does not change."""

    llm: LLM
    adapter: str | None = None
    version: int = 0

    name: ClassVar[str] = "answers"
    """For its adapter."""

    def sample(
        self, prompts: list[list[int]], sampling: Sequence[SamplingParams], n: int
    ) -> list[list[Completion]]:
        """See `Sampler`."""
        return self.llm.generate(prompts, list(sampling), n=n, adapter=self.adapter)


def roll_out(
    model: Sampler,
    problems: Sequence[Problem],
    rewards: Mapping[str, tuple[float, Reward]],
    sampling: SamplingParams,
    samples: int,
) -> list[Rollout]:
    """`samples` answers to each problem, each of a seed of its own. `rewards`: by name, with its weight."""
    llm = model.llm
    prompts = [
        llm.encode(llm.prompt([{"role": "user", "content": problem.question}]), templated=True)
        for problem in problems
    ]
    first = sampling.seed or 0
    each = [replace(sampling, seed=first + place * samples) for place in range(len(problems))]
    version = model.version
    answers = model.sample(prompts, each, samples)
    rollouts = [
        _rewarded(problem, prompt, own, rewards, version)
        for problem, prompt, own in zip(problems, prompts, answers, strict=True)
    ]
    if not any(rollout.answers for rollout in rollouts):
        reason = next(why for rollout in rollouts for why in rollout.excluded.values())
        raise EnvError(f"not one of {len(rollouts)} problems' answers could be checked: {reason}")
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


def told(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """What users watch of answers, for the log."""
    answers = [answer for rollout in rollouts for answer in rollout.answers]
    first = rollouts[0]
    return {
        "reward": fmean(value for rollout in rollouts for value in rollout.rewards),
        "parts": {
            name: fmean(value for rollout in rollouts for value in rollout.parts[name])
            for name in first.parts
        },
        "deviations": {name: _deviation(rollouts, name) for name in first.parts},
        "length": fmean(answer.completion_tokens for answer in answers),
        "tokens": sum(answer.completion_tokens for answer in answers),
        # An estimate: what was sampled stands for what could have been.
        "entropy": -fmean(value for rollout in rollouts for value in rollout.logprobs),
        "cut": fmean(answer.finish_reason == "length" for answer in answers),
        "still": fmean(not rollout.spread for rollout in rollouts),
        "groups": len(rollouts),
        "excluded": [why for rollout in rollouts for why in rollout.excluded.values()],
        "sample": {
            "question": first.problem.question,
            "answers": [answer.text for answer in first.answers],
            "rewards": list(first.rewards),
            "version": first.version,
        },
    }


def _deviation(rollouts: Sequence[Rollout], name: str) -> float:
    """Of a reward over all answers."""
    return pstdev(value for rollout in rollouts for value in rollout.parts[name])
