"""Supervised fine-tuning: make given answers likelier. Only the assistant's own tokens count."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sampan.core.errors import UsageError
from sampan.llm.model import LLM
from sampan.train.batch import Group
from sampan.train.student import Student


@dataclass(frozen=True)
class Example:
    """A conversation as tokens: those before the first answer, those from there on, and which of these
    count."""

    prompt: tuple[int, ...]
    rest: tuple[int, ...]
    counted: tuple[bool, ...]

    @property
    def group(self) -> Group:
        """As a training step takes it."""
        return Group(self.prompt, (self.rest,))


@dataclass(frozen=True)
class Sft:
    """`tokens`: of a step's batch, about. `rate`: of AdamW, falling to 0 along a cosine after `warmup`
    steps."""

    steps: int
    tokens: int = 2048
    rate: float = 2e-4
    warmup: int = 5
    norm: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class SftStep:
    """`loss`: mean of -log p over the counted tokens, in nats."""

    number: int
    loss: float
    tokens: int
    gradient: float


def example_of(llm: LLM, messages: Sequence[Mapping[str, Any]]) -> Example:
    """A conversation that ends with the assistant. The template says where answers begin and end: what it
    puts before an answer is given, and the answer with what closes it is learnt."""
    turns = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns or turns[-1] != len(messages) - 1:
        raise UsageError("a conversation to learn from ends with a message of the assistant")
    ids: list[int] = []
    counted: list[bool] = []
    for turn in turns:
        before = llm.encode(llm.prompt(messages[:turn]), templated=True)
        after = llm.encode(llm.prompt(messages[: turn + 1], add_generation_prompt=False), templated=True)
        if before[: len(ids)] != ids or after[: len(before)] != before:
            raise UsageError(
                "the template writes earlier turns otherwise once there are later ones: train on each alone"
            )
        counted += [False] * (len(before) - len(ids)) + [True] * _until_end(llm, after[len(before) :])
        ids = [*before, *after[len(before) : len(before) + counted[len(before) :].count(True)]]
    first = counted.index(True)
    return Example(tuple(ids[:first]), tuple(ids[first:]), tuple(counted[first:]))


def _until_end(llm: LLM, answer: Sequence[int]) -> int:
    """Tokens up to the one that ends generation, and with it."""
    ends = [place for place, token in enumerate(answer) if token in llm.tokenizer.eos_ids]
    return ends[-1] + 1 if ends else len(answer)


def train(student: Student, examples: Sequence[Example], how: Sft) -> Iterator[SftStep]:
    """The steps, each as it is done; every example is seen before one is seen again."""
    if not examples:
        raise UsageError("there is no example to learn from")
    optimizer = torch.optim.AdamW(
        student.adapter.parameters, lr=how.rate, weight_decay=0.0, betas=(0.9, 0.99)
    )
    source = _shuffled(examples, how.seed)
    for number in range(how.steps):
        for group in optimizer.param_groups:
            group["lr"] = how.rate * _share(number, how)
        batch = _taken(source, how.tokens)
        counted = sum(sum(example.counted) for example in batch)
        loss = sum(_backward(student, part, counted) for part in _parts(batch, student.rows))
        gradient = float(torch.nn.utils.clip_grad_norm_(student.adapter.parameters, how.norm))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        student.publish()
        yield SftStep(number, loss, counted, gradient)


def loss_of(student: Student, examples: Sequence[Example]) -> float:
    """Mean of -log p over the counted tokens."""
    counted = sum(sum(example.counted) for example in examples)
    total = 0.0
    for part in _parts(examples, student.rows):
        with torch.no_grad():
            total += float(_loss(student, part, counted))
    return total


def _backward(student: Student, part: Sequence[Example], counted: int) -> float:
    loss = _loss(student, part, counted)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _loss(student: Student, part: Sequence[Example], counted: int) -> torch.Tensor:
    logprobs = student.logprobs([example.group for example in part])
    mask = torch.tensor([each for example in part for each in example.counted])
    return -logprobs[mask].sum() / counted


def _share(number: int, how: Sft) -> float:
    if number < how.warmup:
        return (number + 1) / how.warmup
    left = (number - how.warmup) / max(1, how.steps - how.warmup)
    return float(0.5 * (1 + np.cos(np.pi * left)))


def _shuffled(examples: Sequence[Example], seed: int) -> Iterator[Example]:
    for epoch in range(2**31):
        order = np.random.default_rng([seed, epoch]).permutation(len(examples))
        yield from (examples[place] for place in order)


def _taken(source: Iterator[Example], tokens: int) -> list[Example]:
    batch = [next(source)]
    while sum(example.group.rows for example in batch) < tokens:
        batch.append(next(source))
    return batch


def _parts(examples: Sequence[Example], rows: int) -> Iterator[list[Example]]:
    """Examples that fit one training step together."""
    part: list[Example] = []
    for example in examples:
        if part and sum(each.group.rows for each in (*part, example)) > rows:
            yield part
            part = []
        part.append(example)
    yield part
