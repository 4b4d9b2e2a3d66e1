"""Training of the weights themselves: what is trained is what is sampled, and nothing older is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import grad
from transformers import AutoModelForCausalLM

from sampan.core.errors import RequestError, UsageError
from sampan.core.types import Completion, ModelFiles, SamplingParams
from sampan.kernels.graph import Node
from sampan.kernels.torch.ops import evaluate
from sampan.llm.load import graph_of
from sampan.llm.model import LLM
from sampan.train.backward import logprobs_of, step_of_batch
from sampan.train.batch import Batch, Group
from sampan.train.export import export_model
from sampan.train.full import TYPES, Full, FullWeights
from sampan.train.head import Judged
from sampan.train.student import Student
from sampan.weights.checkpoint import open_checkpoint

Tiny = Callable[..., ModelFiles]
PROMPT = [5, 17, 3, 60, 200, 9] * 12  # two whole pages and a part
SAMPLED = SamplingParams(temperature=1.0, max_tokens=12, seed=3, logprobs=0, ignore_eos=True)


@contextmanager
def learning(files: ModelFiles, how: Full, rows: int = 256) -> Iterator[Student]:
    with LLM(files, dtype=how.dtype, context=256, cache_tokens=1024, threads=1) as llm:
        with open_checkpoint(files) as checkpoint:
            weights = FullWeights.begin(checkpoint, graph_of(llm.config), how)
        with Student(llm, weights, rows=rows, dtype=TYPES[how.dtype]) as student:
            yield student


def sampled(llm: LLM, adapter: str | None = None) -> list[Completion]:
    return llm.generate(PROMPT, SAMPLED, n=4, adapter=adapter)


def logprobs(answers: list[Completion]) -> list[float]:
    return [token.logprob for answer in answers for token in answer.logprobs]


def group_of(answers: list[Completion]) -> Group:
    return Group(tuple(PROMPT), tuple(answer.tokens for answer in answers))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_after_every_update_the_trainer_has_the_probabilities_of_what_is_sampled(
    tiny: Tiny, kind: str, dtype: str
) -> None:
    with learning(tiny(kind), Full(dtype=dtype)) as student:  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(student.trained.parameters, lr=1e-2)
        seen = []
        for _ in range(4):
            answers = sampled(student.llm)
            found = student.logprobs([group_of(answers)])
            assert found.tolist() == logprobs(answers)
            seen.append((student.version, tuple(found.tolist())))
            (found * torch.linspace(-1, 1, len(found))).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            student.publish()
        versions, values = zip(*seen, strict=True)
        assert versions == tuple(range(versions[0], versions[0] + 4))
        assert len(set(values)) == 4, "no update changed anything"


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_gradients_of_all_weights_are_those_of_the_whole_forward(tiny: Tiny, kind: str) -> None:
    """PyTorch differentiates the same graph with every product in it."""
    random = np.random.default_rng(3)
    batch = Batch(
        tuple(
            Group(
                tuple(random.integers(0, 300, length).tolist()),
                tuple(tuple(random.integers(0, 300, n).tolist()) for n in continuations),
            )
            for length, continuations in ((37, (5, 1, 9)), (1, (4,)))
        )
    )
    with learning(tiny(kind), Full(dtype="f32")) as student:
        masters = student.trained.learnt
        assert masters.keys() == graph_of(student.llm.config).weights().keys()
        found = evaluate(student.trace.graph, masters, step_of_batch(batch))
        logits = found["logits"]
        values = logits.log_softmax(-1).gather(-1, torch.tensor(batch.targets)[:, None])[:, 0]
        factors = torch.from_numpy(random.normal(0, 1, len(batch.targets)).astype(np.float32))
        expected = grad((values * factors).sum(), student.trained.parameters)

        def kept(node: Node) -> torch.Tensor:
            return found[student.trace.names[node]].detach()

        totals = logits.detach().double().logsumexp(-1).numpy()
        judged = Judged(logits.detach().numpy(), totals, batch.targets)
        own, _ = logprobs_of(student.trace, student.weights, batch, {}, kept, judged, masters)
        gradients = grad((own * factors).sum(), student.trained.parameters)
        exact = grad((student.logprobs(batch.groups) * factors).sum(), student.trained.parameters)
    for name, one, through, right in zip(masters, gradients, exact, expected, strict=True):
        assert float(right.abs().max()) > 0, name
        torch.testing.assert_close(one, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))
        torch.testing.assert_close(through, right, rtol=1e-2, atol=1e-2 * float(right.abs().max()))


def test_no_token_comes_from_weights_that_were_written_over(tiny: Tiny, tmp_path: Path) -> None:
    """The old weights, and the pages of the cache that they filled, are poison: the next version's answers
    are those of a model that never saw them."""
    with learning(tiny("qwen2"), Full(dtype="f32")) as student:
        before = sampled(student.llm)
        norm = student.trained.learnt["model.layers.0.input_layernorm.weight"]
        good = {name: master.detach().clone() for name, master in student.trained.learnt.items()}
        with torch.no_grad():
            norm.fill_(3e38)
        student.publish()
        with pytest.raises(RequestError, match="not finite"):
            sampled(student.llm)  # nothing sound is left of the old weights, nor of what they cached
        assert not student.logprobs([group_of(before)]).isfinite().all()
        with torch.no_grad():
            for name, master in student.trained.learnt.items():
                master.copy_(good[name] * 1.01)
        student.publish()
        answers = sampled(student.llm)
        assert student.logprobs([group_of(answers)]).tolist() == logprobs(answers)
        assert isinstance(student.trained, FullWeights)
        export_model(tmp_path / "model", student.llm.files, student.trained)
    with LLM(tmp_path / "model", context=256, threads=1) as fresh:
        assert logprobs(sampled(fresh)) == logprobs(answers) != logprobs(before)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_exported_model_answers_alike_here_and_in_transformers(
    tiny: Tiny, tmp_path: Path, dtype: str
) -> None:
    files, out = tiny("qwen3"), tmp_path / "model"
    with learning(files, Full(dtype=dtype)) as student:  # type: ignore[arg-type]
        with torch.no_grad():
            for master in student.trained.parameters:
                master.mul_(1.03)
        student.publish()
        answers = sampled(student.llm)
        assert isinstance(student.trained, FullWeights)
        export_model(out, files, student.trained)
    with LLM(out, context=256, threads=1) as own:
        assert logprobs(sampled(own)) == logprobs(answers)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.float32
    texts = [[*PROMPT, *answer.tokens] for answer in answers]
    with torch.no_grad():
        theirs = model(torch.tensor(texts)).logits.log_softmax(-1)
    tokens = torch.tensor(texts)[:, len(PROMPT) :, None]
    found = theirs[:, len(PROMPT) - 1 : -1].gather(-1, tokens).flatten()
    bound = 1e-3 if dtype == "f32" else 0.2  # of bf16 activations
    torch.testing.assert_close(found, torch.tensor(logprobs(answers)), rtol=0, atol=bound)


def test_chosen_modules_are_all_that_changes(tiny: Tiny) -> None:
    with learning(tiny("qwen2"), Full(modules=("q_proj", "norm"), dtype="f32")) as student:
        names = list(student.trained.learnt)
        assert names == [
            "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.bias",
            "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.bias",
            "model.norm.weight",
        ]  # fmt: skip
        answers = sampled(student.llm)
        student.logprobs([group_of(answers)]).sum().backward()
        assert all(
            float(each.grad.abs().max()) > 0 for each in student.trained.parameters if each.grad is not None
        )
        torch.optim.AdamW(student.trained.parameters, lr=1e-2).step()
        student.publish()
        answers = sampled(student.llm)
        assert student.logprobs([group_of(answers)]).tolist() == logprobs(answers)
        said = pytest.raises(UsageError, match=r"the model has no x_proj: it has .*q_proj")
        with open_checkpoint(student.llm.files) as checkpoint, said:
            FullWeights.begin(checkpoint, graph_of(student.llm.config), Full(modules=("x_proj",)))
