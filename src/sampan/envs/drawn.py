"""Tasks whose problems are drawn one by one from a seed."""

from collections.abc import Callable, Sequence
from random import Random

from sampan.core.errors import EnvError
from sampan.envs.task import Problem, Split, split_of

_BARREN = 10_000  # draws without a new problem, behind which there are no more


def drawn(
    name: str, draw: Callable[[Random, int], Problem], split: Split, seed: int, count: int
) -> Sequence[Problem]:
    """See `Task.problems`. `draw`: problem number so much from a generator of random numbers; what it makes
    of the number (a label, say) is thereby balanced in both splits. Fewer problems of the same seed are
    the first of more. Raises `EnvError` where there are not so many."""
    random = Random(f"{name} {seed}")
    found: dict[str, Problem] = {}
    barren = 0
    while len(found) < count:
        problem = draw(random, len(found))
        if problem.key in found or split_of(problem) != split:
            barren += 1
            if barren == _BARREN:
                raise EnvError(
                    f"{name}: has no {count} different problems for {split}: {len(found)} were found"
                )
            continue
        found[problem.key] = problem
        barren = 0
    return list(found.values())
