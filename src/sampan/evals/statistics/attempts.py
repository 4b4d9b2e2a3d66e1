"""What several attempts at a problem come to: one of them right, or most of them."""

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from math import comb

import numpy as np
from scipy import stats

from sampan.core.errors import UsageError, quoted
from sampan.evals.statistics.intervals import Estimate, Floats, estimate

_Votes = tuple[tuple[int, float], ...]


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that one of k attempts is right, without bias, where c of n were: 1 - C(n-c, k) / C(n, k)
    (arXiv:2107.03374, section 2.1). In whole numbers, so that it is rounded once. Raises `UsageError` unless
    0 <= c <= n and 1 <= k <= n."""
    if not (0 <= c <= n and 1 <= k <= n):
        raise UsageError(f"pass@{k}: makes no sense where {c} of {n} attempts were right")
    ways = comb(n, k)
    return (ways - comb(n - c, k)) / ways


def pass_at(results_by_problem: Mapping[str, Sequence[bool]], k: int) -> Estimate:
    """The mean pass@k over the problems, each of which counts once, with what varies between them.
    `results_by_problem`: whether each attempt was right. Raises `UsageError` for no problem, for one with
    fewer than k attempts, and for a result that is neither."""
    _checked(results_by_problem, f"pass@{k}", k)
    return estimate([pass_at_k(len(own), sum(map(bool, own)), k) for own in results_by_problem.values()])


def majority_at(
    answers_by_problem: Mapping[str, Sequence[Hashable]],
    right_by_problem: Mapping[str, Sequence[bool]],
    k: int,
) -> Estimate:
    """The mean chance, over the problems, that the most frequent of k answers is right (arXiv:2203.11171),
    the k being drawn from a problem's answers without putting any back; nothing is drawn, the chance is
    exact. Answers that are equal are one vote each for the same. None has no vote; where none of the k has
    one, the majority is wrong. Of answers with equally many votes each is as likely to be taken. Equal
    answers of which only some were right count as right in that share.

    Both mappings have the same problems, and as many values for each. Raises `UsageError` otherwise, for no
    problem, and for one with fewer than k answers."""
    _checked(right_by_problem, f"majority@{k}", k)
    if answers_by_problem.keys() != right_by_problem.keys():
        other = answers_by_problem.keys() ^ right_by_problem.keys()
        raise UsageError(f"majority@{k}: {len(other)} problems have answers or results alone")
    return estimate(
        [_majority(*_votes(key, answers_by_problem[key], own), k) for key, own in right_by_problem.items()]
    )


def _checked(results: Mapping[str, Sequence[bool]], name: str, k: int) -> None:
    if not results:
        raise UsageError(f"{name}: there is no problem")
    if k < 1:
        raise UsageError(f"{name}: takes one attempt at least")
    for key, own in results.items():
        if len(own) < k:
            raise UsageError(f"{name}: problem {quoted(key)} has only {len(own)} attempts")
        if any(each not in (0, 1) for each in own):
            raise UsageError(f"{name}: problem {quoted(key)} has a result that is neither right nor wrong")


def _votes(key: str, answers: Sequence[Hashable], right: Sequence[bool]) -> tuple[_Votes, int]:
    """How often each answer was given and in which share it was right, the same in any order; and how often
    there was none."""
    if len(answers) != len(right):
        raise UsageError(
            f"majority: problem {quoted(key)} has {len(answers)} answers and {len(right)} results"
        )
    found: dict[Hashable, list[bool]] = {}
    for answer, each in zip(answers, right, strict=True):
        found.setdefault(answer, []).append(bool(each))
    silent = len(found.pop(None, ()))
    return tuple(sorted((len(own), sum(own) / len(own)) for own in found.values())), silent


@lru_cache(maxsize=4096)
def _majority(votes: _Votes, silent: int, k: int) -> float:
    n = silent + sum(count for count, _ in votes)
    most = max((count for count, _ in votes), default=0)
    won = sum(_won_with(top, votes, silent, k, k / n) for top in range(1, min(most, k) + 1))
    return min(won / float(stats.binom.pmf(k, n, k / n)), 1.0)


def _won_with(top: int, votes: _Votes, silent: int, k: int, share: float) -> float:
    """The chance of k votes whose majority has `top` and is right, each answer being drawn with the chance
    `share`, apart from the others: given that k are drawn, all draws of k are equally likely."""
    fewer = silent + sum(count for count, _ in votes if count < top)
    # [2, answers with `top` votes, votes]: chances, and chances times how many of those answers are right.
    state = np.zeros((2, k // top + 1, k + 1))
    state[0, 0] = _binomial(fewer, share, k)
    for count, right in votes:
        if count >= top:
            chances = _binomial(count, share, k)
            after = np.zeros_like(state)
            for own in range(top):
                after[:, :, own:] += chances[own] * state[:, :, : k + 1 - own]
            tied = chances[top] * state[:, :-1, : k + 1 - top]
            tied[1] += right * tied[0]
            after[:, 1:, top:] += tied
            state = after
    return float((state[1, 1:, k] / np.arange(1, state.shape[1])).sum())


@lru_cache(maxsize=4096)
def _binomial(count: int, share: float, k: int) -> Floats:
    """Chances [k + 1] of 0 to k drawn of `count`."""
    chances: Floats = stats.binom.pmf(np.arange(k + 1), count, share)
    return chances
