"""The torch backend through the engine: transformers' logits, and the native kernels' greedy tokens."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sampan import LLM, SamplingParams, UsageError
from sampan.core.errors import OutOfMemory
from sampan.core.types import ModelFiles
from sampan.engine.engine import Engine
from sampan.kernels.backend import AdapterRoom
from sampan.kernels.torch.backend import TorchBackend

Make = Callable[..., Any]
# float32's, which a recurrence carries on: up to 1.4e-5 was measured. A neighbour that is seen is far more.
NOISE, LENGTH = 2e-5, 150
GREEDY = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
BACKEND = TorchBackend()


def test_every_row_of_a_prompt_has_the_logits_of_transformers(
    any_case: str, tiny: Make, native: Make, error: Make
) -> None:
    model = tiny(any_case)
    prompt = model.prompt(LENGTH)
    for chunk in (LENGTH, 40, 1):
        assert (
            error(native(model.files, backend=BACKEND).logits(prompt, chunk), model.expected(prompt)) < NOISE
        )


def test_sequences_in_one_step_do_not_see_each_other(
    any_case: str, tiny: Make, native: Make, error: Make
) -> None:
    model = tiny(any_case)
    here = native(model.files, backend=BACKEND)
    prompts = [model.prompt(length, seed=length) for length in (70, 33, 5)]
    a, b, c = (here.sequence(prompt) for prompt in prompts)
    parts: list[list[np.ndarray]] = [[], [], []]
    for work in ([(a, 30), (b, 32)], [(c, 4), (a, 39)], [(a, 1), (b, 1), (c, 1)]):
        for (sequence, _), logits in zip(work, here.step(*work), strict=True):
            parts[(a, b, c).index(sequence)].append(logits)
    for found, prompt in zip(parts, prompts, strict=True):
        assert error(np.concatenate(found), model.expected(prompt)) < NOISE
    for sequence in (a, b, c):
        here.pool.release(sequence.pages)


def answers(runner: Any, prompts: list[list[int]], vocabulary: int) -> list[list[int]]:
    """Greedy answers made side by side, the second time with known prefixes."""
    engine = Engine(
        runner, context=400, vocabulary=vocabulary, eos_ids=frozenset(), max_sequences=8, draft_rows=0
    )
    found = []
    for _ in range(2):
        tokens: dict[int, list[int]] = {engine.add(prompt, GREEDY): [] for prompt in prompts}
        while not engine.idle:
            for event in engine.step():
                assert event.token is not None, event.error
                tokens[event.request].append(event.token.token)
        found.append(list(tokens.values()))
    assert found[0] == found[1]
    return found[0]


def test_greedy_answers_are_those_of_the_native_kernels(case: str, tiny: Make, native: Make) -> None:
    model = tiny(case)
    prompts = [model.prompt(length, seed=length) for length in (100, 37, 3)]
    vocabulary = model.oracle.config.vocab_size
    expected = answers(native(model.files).runner, prompts, vocabulary)
    assert answers(native(model.files, backend=BACKEND).runner, prompts, vocabulary) == expected


def test_adapters_add_their_products(
    tiny: Make, native: Make, write_adapter: Make, error: Make, tmp_path: Path
) -> None:
    from sampan.weights.lora import read_lora

    model, room = tiny("llama"), AdapterRoom(2, 16)
    one, other = native(model.files, room=room), native(model.files, room=room, backend=BACKEND)
    write_adapter(tmp_path, {name: weight.shape for name, weight in one.weights.items()})
    prompt = model.prompt(40)
    adapter = read_lora(tmp_path, one.weights)
    found = []
    for here in (one, other):
        name = here.runner.adapters.load(adapter)
        plain, adapted = here.sequence(prompt), here.sequence(prompt, name)
        found.append(np.concatenate(here.step((plain, 40), (adapted, 40))))
        for sequence in (plain, adapted):
            here.pool.release(sequence.pages)
        here.runner.adapters.unload(name)
    adapter.close()
    assert error(found[1], found[0]) < NOISE


@pytest.fixture(scope="module")
def llm(default_model: ModelFiles) -> Iterator[LLM]:
    with LLM(default_model, backend="torch", context=512, max_sequences=4) as llm:
        yield llm


def test_the_default_model_answers_and_scores(llm: LLM, default_model: ModelFiles) -> None:
    ids = llm.encode("The capital of France is Paris. The capital of Italy is")
    with LLM(default_model, context=512) as native:
        assert llm.generate(ids, GREEDY).tokens == native.generate(ids, GREEDY).tokens
        found, expected = llm.score(ids, top=1), native.score(ids)
    assert found.nll == pytest.approx(expected.nll, rel=2e-2)  # integer kernels round activations
    assert llm.backend.name == "torch"


@pytest.mark.parametrize("device", ["cuda:7", "nowhere", "meta"])
def test_a_device_that_torch_cannot_find_is_refused_with_what_it_sees(
    device: str, default_model: ModelFiles
) -> None:
    with pytest.raises(UsageError, match=f"device is '{device}', which torch cannot use .*: it sees cpu"):
        LLM(default_model, backend="torch", device=device)


def test_what_there_is_not_is_refused_by_name(default_model: ModelFiles) -> None:
    with pytest.raises(UsageError, match="backend is 'triton': cpu and torch are there"):
        LLM(default_model, backend="triton")
    with pytest.raises(UsageError, match="device is 'cuda': the native kernels run on the cpu"):
        LLM(default_model, device="cuda")
    with pytest.raises(UsageError, match="a cache of type 'int8' is not known: f32, bf16 and auto are"):
        LLM(default_model, backend="torch", cache="int8")
    with pytest.raises(OutOfMemory, match="of weights"):
        LLM(default_model, backend="torch", memory="200MB")


def test_values_that_are_not_finite_are_told(tiny: Make, native: Make) -> None:
    here = native(tiny("qwen2").files, backend=BACKEND)
    name = "model.layers.1.mlp.down_proj.weight"
    weight = here.runner.executable.weights[name]
    before = weight.clone()
    with torch.inference_mode():
        weight[0, 0] = torch.nan
        sequence = here.sequence([1, 2, 3])
        assert here.pool.extend(sequence.pages, 3)
        span = [([1, 2, 3], 0, sequence.pages, 1, -1)]
        from sampan.kernels.backend import Span

        rows = here.runner.executable.run([Span(*each) for each in span])
        assert rows.unsound == {0: "before model.norm"}
        weight.copy_(before)
    here.pool.release(sequence.pages)


def test_damage_of_one_sequence_reaches_no_other(tiny: Make, native: Make) -> None:
    """Also where it lies in the first page, and a shorter sequence decodes beside a longer one."""
    model = tiny("llama")
    here = native(model.files, backend=BACKEND)
    bad, short, long = (here.sequence(model.prompt(length, seed=length)) for length in (20, 33, 90))
    here.step((bad, 20))
    here.step((short, 32), (long, 89))
    expected = here.step((short, 1), (long, 1))
    graph = here.runner.executable.graph
    damaged = {0, *bad.pages} - {*short.pages, *long.pages}
    with torch.inference_mode():
        for held in here.runner.executable._cache.tensors(graph.attentions()[0]):
            for page in damaged:
                held[page] = torch.nan
    short.computed, long.computed = 32, 89
    again = here.step((short, 1), (long, 1))
    for one, other in zip(expected, again, strict=True):
        assert np.array_equal(one, other)
    for sequence in (bad, short, long):
        here.pool.release(sequence.pages)
    with torch.inference_mode():
        for held in here.runner.executable._cache.tensors(graph.attentions()[0]):
            held.zero_()
