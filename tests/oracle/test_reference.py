"""The PyTorch backend runs the unchanged model files: transformers' logits, and its gradients."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from sampan.kernels.graph import Graph
from sampan.kernels.torch.history import History, step_of
from sampan.kernels.torch.ops import evaluate
from sampan.llm.load import graph_of
from sampan.models.registry import describe
from sampan.weights.checkpoint import open_checkpoint

Make = Callable[..., Any]
NOISE, GRADIENT_NOISE = 1e-5, 2e-5  # of the range and of the largest gradient; measured up to 2.4e-6, 3.2e-6


class Reference:
    """A checkpoint's weights as leaves of autograd, and the model that runs on them."""

    def __init__(self, graph: Graph, weights: dict[str, torch.Tensor]) -> None:
        self.graph, self.weights = graph, weights

    def __call__(self, *work: tuple[History, list[int]], sample_all: bool = True) -> torch.Tensor:
        """Logits of every row, or of each sequence's last."""
        return evaluate(self.graph, self.weights, step_of(work, sample_all=sample_all))["logits"]


@pytest.fixture
def reference(case: str, tiny: Make) -> Reference:
    with open_checkpoint(tiny(case).files) as checkpoint:
        names = describe(checkpoint.config).weights()
        arrays = {name: torch.from_numpy(checkpoint.array(name)) for name in names}
        graph = graph_of(checkpoint.config)
    return Reference(graph, {name: array.requires_grad_() for name, array in arrays.items()})


def test_logits_are_those_of_transformers(case: str, tiny: Make, reference: Reference, error: Make) -> None:
    model = tiny(case)
    prompt = model.prompt(100)
    assert error(reference((History(), prompt)).detach().numpy(), model.expected(prompt)) < NOISE


def test_chunks_and_company_change_nothing(case: str, tiny: Make, reference: Reference, error: Make) -> None:
    model = tiny(case)
    one, other = model.prompt(60), model.prompt(45, seed=1)
    a, b = History(), History()
    with torch.no_grad():
        first = reference((a, one[:40]))
        both = reference((b, other[:44]), (a, one[40:59]))
        last = reference((a, one[59:]), (b, other[44:]))
    assert (a.tokens, b.tokens) == (60, 45)
    assert error(torch.cat([first, both[44:], last[:1]]).numpy(), model.expected(one)) < NOISE
    assert error(torch.cat([both[:44], last[1:]]).numpy(), model.expected(other)) < NOISE


def test_a_batch_samples_the_last_row_of_each_sequence(case: str, tiny: Make, reference: Reference) -> None:
    model = tiny(case)
    work = [(History(), model.prompt(10)), (History(), model.prompt(7, seed=1))]
    with torch.no_grad():
        sampled = reference(*work, sample_all=False)
        every = reference(*[(History(), ids) for _, ids in work])
    torch.testing.assert_close(sampled, every[[9, 16]])


@pytest.mark.parametrize("chunk", [48, 20])
def test_gradients_are_those_of_transformers(case: str, chunk: int, tiny: Make, reference: Reference) -> None:
    model = tiny(case)
    prompt = model.prompt(48)
    targets = torch.tensor(prompt[1:])
    model.oracle.zero_grad()
    expected = model.oracle(torch.tensor([prompt]), use_cache=False).logits[0, :-1]
    cross_entropy(expected, targets).backward()
    history = History()
    logits = [reference((history, prompt[at : at + chunk])) for at in range(0, 48, chunk)]
    cross_entropy(torch.cat(logits)[:-1], targets).backward()
    theirs = dict(model.oracle.named_parameters())
    assert reference.weights.keys() == theirs.keys()
    for name, weight in reference.weights.items():
        assert weight.grad is not None, name
        assert theirs[name].grad is not None, name
        largest = theirs[name].grad.abs().max()
        assert largest > 0, name
        torch.testing.assert_close(
            weight.grad, theirs[name].grad, rtol=0, atol=GRADIENT_NOISE * float(largest)
        )


def test_native_and_reference_agree_on_what_a_cached_token_sees(
    case: str, tiny: Make, native: Make, reference: Reference, error: Make
) -> None:
    model = tiny(case)
    prompt = model.prompt(80)
    history = History()
    with torch.no_grad():
        reference((history, prompt[:70]))
        expected = reference((history, prompt[70:])).numpy()
    assert error(native(model.files).logits(prompt, 70)[70:], expected) < NOISE


@pytest.mark.parametrize("module", ["sampan", "sampan.llm", "sampan.cli.main"])
def test_the_base_install_does_not_need_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
