"""The trainer's log-probabilities are the sampler's, to the bit, and its gradients are the model's."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from sampan.core.errors import OutOfMemory
from sampan.core.types import SamplingParams
from sampan.kernels.graph import Node
from sampan.kernels.torch.ops import Adapted, evaluate
from sampan.llm.load import graph_of
from sampan.llm.model import LLM
from sampan.train.backward import logprobs_of, step_of_batch
from sampan.train.batch import Batch, Group
from sampan.train.head import Judged, TargetLogprobs
from sampan.train.lora import TrainedAdapter
from sampan.train.student import Student, linears_of

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(adapters=1, adapter_rank=16, context=512, cache_tokens=8192) as model:
        yield model


@pytest.fixture(scope="module")
def student(llm: LLM) -> Student:
    adapter = TrainedAdapter.begin(linears_of(graph_of(llm.config), MODULES), rank=8, alpha=16, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for part in adapter.parts:
            part.matrix_b.normal_(0, 0.01, generator=generator)
    return Student(llm, adapter, rows=640, dtype=torch.float32)


def test_what_was_sampled_has_the_probability_that_the_trainer_gives(llm: LLM, student: Student) -> None:
    prompt = llm.encode(
        llm.prompt([{"role": "user", "content": "Tell me about rivers. " * 12}]), templated=True
    )
    assert len(prompt) > 2 * 32
    how = SamplingParams(temperature=1.0, max_tokens=40, seed=7, logprobs=0)
    answers = llm.generate(prompt, how, n=6, adapter=student.name)
    groups = [
        Group(tuple(prompt), tuple(answer.tokens for answer in answers[:4])),
        Group(tuple(prompt), tuple(answer.tokens for answer in answers[4:])),
    ]
    sampled = [token.logprob for answer in answers for token in answer.logprobs]
    together = student.logprobs(groups).detach().tolist()
    alone = [value for group in groups for value in student.logprobs([group]).detach().tolist()]
    assert together == alone == sampled
    plain = llm.generate(prompt, how, n=1)[0]
    assert [token.logprob for token in plain.logprobs] != sampled[: len(plain.tokens)], (
        "the adapter does nothing"
    )


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_sampler_scorer_and_trainer_agree_at_any_temperature(
    llm: LLM, student: Student, temperature: float
) -> None:
    prompt = llm.encode("The river", templated=False)
    how = SamplingParams(temperature=temperature, tempered=True, max_tokens=12, seed=3, logprobs=2)
    answers = llm.generate(prompt, how, n=3, adapter=student.name)
    group = Group(tuple(prompt), tuple(answer.tokens for answer in answers))
    trained, entropies = student.judged([group], temperature)
    sampled = [token for answer in answers for token in answer.logprobs]
    assert trained.detach().tolist() == [token.logprob for token in sampled]
    scores = [
        llm.score([*prompt, *answer.tokens], temperature=temperature, entropy=True, adapter=student.name)
        for answer in answers
    ]
    assert trained.detach().tolist() == [x for score in scores for x in score.logprobs[len(prompt) :]]
    told = [x for score in scores for x in (score.entropies or ())[len(prompt) :]]
    assert entropies.tolist() == pytest.approx(told, rel=1e-4)
    for token in sampled:
        assert dict(token.top).get(token.token, token.logprob) == token.logprob


def test_gradients_at_a_temperature_are_those_of_its_distribution() -> None:
    random = np.random.default_rng(5)
    x = torch.from_numpy(random.normal(0, 1, (200, 64)).astype(np.float32)).requires_grad_()
    weight = torch.from_numpy(random.normal(0, 1, (300, 64)).astype(np.float32))
    targets = random.integers(0, 300, 200).tolist()
    logits = x @ weight.T
    scaled = logits / 0.4
    right = scaled.log_softmax(-1)[torch.arange(200), targets]
    judged = Judged(logits.detach().numpy(), scaled.detach().double().logsumexp(-1).numpy(), targets, 0.4)
    own, _ = TargetLogprobs.apply(x, weight, judged, None)
    torch.testing.assert_close(own.float(), right, rtol=1e-5, atol=1e-4)
    factors = torch.from_numpy(random.normal(0, 1, 200).astype(np.float32))
    (expected,) = torch.autograd.grad((right * factors).sum(), x)
    (found,) = torch.autograd.grad((own * factors).sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_gradients_are_those_of_the_whole_forward(student: Student) -> None:
    """PyTorch differentiates the same graph with every product in it."""
    random = np.random.default_rng(3)
    group, other = (
        Group(
            tuple(random.integers(0, 40_000, length).tolist()),
            tuple(tuple(random.integers(0, 40_000, n).tolist()) for n in continuations),
        )
        for length, continuations in ((37, (5, 1, 9)), (1, (4,)))
    )
    batch = Batch((group, other))
    parts = {part.weight.name: part for part in student.trained.parts}
    products = {name: (part.matrix_a, part.matrix_b * part.scale) for name, part in parts.items()}
    everything = torch.arange(len(batch.ids)), torch.arange(len(batch.sampled))
    step = replace(step_of_batch(batch), adapters=[Adapted(*everything, products)])
    found = evaluate(student.trace.graph, student.weights, step)
    logits = found["logits"]
    logprobs = logits.log_softmax(-1).gather(-1, torch.tensor(batch.targets)[:, None])[:, 0]
    factors = torch.from_numpy(random.normal(0, 1, len(batch.targets)).astype(np.float32))
    expected = torch.autograd.grad((logprobs * factors).sum(), student.trained.parameters)

    def kept(node: Node) -> torch.Tensor:
        return found[student.trace.names[node]].detach()

    totals = logits.detach().double().logsumexp(-1).numpy()
    judged = Judged(logits.detach().numpy(), totals, batch.targets)
    own, entropies = logprobs_of(student.trace, student.weights, batch, parts, kept, judged)
    uncertain = torch.distributions.Categorical(logits=logits.detach()).entropy()
    torch.testing.assert_close(entropies.float(), uncertain, rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad((own * factors).sum(), student.trained.parameters)
    for gradient, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))
    exact = student.logprobs([group, other])
    through = torch.autograd.grad((exact * factors).sum(), student.trained.parameters)
    error = sum(float((a - b).square().sum()) for a, b in zip(through, expected, strict=True))
    assert error < 0.05**2 * sum(float(b.square().sum()) for b in expected)


def test_a_step_that_is_too_large_is_refused(student: Student) -> None:
    with pytest.raises(OutOfMemory, match="700 tokens, and there is room for 640"):
        student.logprobs([Group((1,), ((2,) * 700,))])
