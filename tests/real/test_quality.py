"""The default model answers, and what it computes is what transformers computes on the same weights."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from sampan.core.types import SamplingParams
from sampan.engine.engine import Engine
from sampan.engine.sequence import Sequence, Span
from sampan.llm import LLM

TOKENS, CHUNK = 1500, 250
# Over these 1,500 tokens: divergence 0.0015 nats a token, perplexity 13.40 against 13.41.
DIVERGENCE, PERPLEXITY = 0.003, 0.005


@dataclass(frozen=True)
class Compared:
    """For each token: Kullback-Leibler divergence, whether both think the same token best, and the
    log-probabilities of the token that follows, transformers', ours, and ours as `score` gives them."""

    divergence: torch.Tensor
    same_best: torch.Tensor
    theirs: torch.Tensor
    ours: torch.Tensor
    scores: torch.Tensor


@pytest.fixture(scope="module")
def compared(llm: LLM, engine: Callable[..., Engine], oracle: LlamaForCausalLM, text: str) -> Compared:
    ids = llm.tokenizer.encode(text, add_bos=False)[: TOKENS + 1]
    with torch.no_grad():
        expected = oracle(torch.tensor([ids[:-1]]), use_cache=False).logits[0]
    own = engine(threads=2)
    sequence = Sequence(0, ids, len(ids), SamplingParams(), 0, len(ids), frozenset())
    assert own.pool.extend(sequence.pages, TOKENS)
    rows = []
    for start in range(0, TOKENS, CHUNK):
        found = own.runner.rows([Span(sequence, start, CHUNK, sample=True)], sample_all=True)
        logits = torch.from_numpy(found.logits.copy())
        rows.append(_rows(expected[start : start + CHUNK], logits, ids[start + 1 : start + CHUNK + 1]))
    return Compared(*map(torch.cat, zip(*rows, strict=True)), torch.from_numpy(llm.engine.score(ids)))


def _rows(expected: torch.Tensor, found: torch.Tensor, targets: list[int]) -> tuple[torch.Tensor, ...]:
    p, q = expected.log_softmax(-1), found.log_softmax(-1)
    each = torch.arange(len(targets))
    divergence = (p.exp() * (p - q)).sum(-1)
    return divergence, p.argmax(-1) == q.argmax(-1), p[each, targets].double(), q[each, targets].double()


def test_it_knows_the_capital_of_france(llm: LLM) -> None:
    prompt = llm.prompt([{"role": "user", "content": "What is the capital of France?"}])
    sampling = SamplingParams(max_tokens=32, temperature=0)
    assert "Paris" in "".join(delta.text for delta in llm.stream(prompt, sampling, templated=True))


def test_its_distributions_are_close_to_those_of_transformers(compared: Compared) -> None:
    assert compared.divergence.mean() < DIVERGENCE
    assert compared.divergence[:64].mean() < DIVERGENCE / 5  # activations of sixteen bits
    assert compared.same_best.float().mean() > 0.96


def test_its_perplexity_is_that_of_transformers(compared: Compared) -> None:
    theirs, ours = (float((-each.mean()).exp()) for each in (compared.theirs, compared.scores))
    assert ours == pytest.approx(theirs, rel=PERPLEXITY)


def test_scores_are_the_logarithms_of_its_own_distributions(compared: Compared) -> None:
    np.testing.assert_allclose(compared.scores, compared.ours, rtol=0, atol=1e-4)
