"""Groups that are computed together, and their gradients added up over all of a batch."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from sampan.llm.model import LLM
from sampan.train.batch import Group


def parts(groups: Sequence[Group], rows: int) -> Iterator[range]:
    """Places of groups that fit one training step of so many rows, in turn."""
    start = used = 0
    for place, group in enumerate(groups):
        if place > start and used + group.rows > rows:
            yield range(start, place)
            start, used = place, 0
        used += group.rows
    yield range(start, len(groups))


def split(groups: Sequence[Group], rows: int) -> list[Group]:
    """The same, where a group that is larger than a training step is several of the same prompt."""
    found: list[Group] = []
    for group in groups:
        taken: tuple[tuple[int, ...], ...] = ()
        for tokens in group.continuations:
            if taken and Group(group.prompt, (*taken, tokens)).rows > rows:
                found.append(Group(group.prompt, taken))
                taken = ()
            taken += (tokens,)
        found.append(Group(group.prompt, taken))
    return found


def offsets(groups: Sequence[Group]) -> list[int]:
    """Where each group's first token is among the tokens of all continuations, and their number."""
    counts = (sum(map(len, group.continuations)) for group in groups)
    return list(accumulate(counts, initial=0))


def answer_offsets(groups: Sequence[Group]) -> list[int]:
    """Where each group's first answer is among all answers, and their number."""
    return list(accumulate((len(group.continuations) for group in groups), initial=0))


def flat(values: Iterable[float]) -> Tensor:
    """[tokens], float64, as log-probabilities are."""
    return torch.tensor(list(values), dtype=torch.float64)


def scored_logprobs(
    llm: LLM, groups: Sequence[Group], adapter: str | None, temperature: float = 1.0
) -> list[float]:
    """Of every token of all continuations in turn, as the model with this adapter has them."""
    texts = [[*group.prompt, *tokens] for group in groups for tokens in group.continuations]
    starts = [len(group.prompt) for group in groups for _ in group.continuations]
    scores = llm.score(texts, start=starts, adapter=adapter, temperature=temperature)
    found: list[float] = []
    for score, start in zip(scores, starts, strict=True):
        for value in score.logprobs[start:]:
            assert value is not None  # scored from `start` on
            found.append(value)
    return found
