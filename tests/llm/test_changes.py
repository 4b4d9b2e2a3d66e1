"""Adapters and new weights while the default model answers: by name, from any thread, at any time."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from sampan import LLM, SamplingParams
from sampan.core.errors import OutOfMemory, RequestError, UsageError, WeightsError
from sampan.core.types import ModelFiles
from sampan.models.registry import describe

GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
PROMPT = "The capital of France is"
LAST = "model.norm.weight"


@pytest.fixture(scope="module")
def own(default_model: ModelFiles) -> Iterator[LLM]:
    """A model that may be changed; every test leaves it as it was."""
    with LLM(default_model, context=512, cache_tokens=2048, adapters=2, adapter_rank=8) as llm:
        yield llm


@pytest.fixture
def folder(own: LLM, write_adapter: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    def make(seed: int = 0, **options: Any) -> Path:
        shapes = {name: weight.shape for name, weight in describe(own.config).weights().items()}
        write_adapter(tmp_path / f"{seed}", shapes, seed=seed, size=0.05, **options)
        return tmp_path / f"{seed}"

    return make


@pytest.fixture
def loaded(own: LLM, folder: Callable[..., Path]) -> Iterator[LLM]:
    own.load_adapter("one", folder(1))
    own.load_adapter("two", folder(2))
    yield own
    for name in own.adapters:
        own.unload_adapter(name)


def test_each_call_chooses_its_adapter(loaded: LLM) -> None:
    assert loaded.adapters == ("one", "two")
    plain, one, two = (loaded.generate(PROMPT, GREEDY, adapter=name) for name in (None, "one", "two"))
    assert plain.text not in (one.text, two.text)
    assert one.logprobs != two.logprobs
    with loaded.stream(PROMPT, GREEDY, adapter="two") as stream:
        assert "".join(delta.text for delta in stream) == two.text
    question = [{"role": "user", "content": "Hello"}]
    assert loaded.chat(question, GREEDY, adapter="one") != loaded.chat(question, GREEDY)
    assert loaded.score(PROMPT, adapter="one") != loaded.score(PROMPT)

    async def together() -> list[Any]:
        calls = [loaded.agenerate(PROMPT, GREEDY, adapter=name) for name in (None, "one", "two", "one")]
        return await asyncio.gather(*calls)

    assert asyncio.run(together()) == [plain, one, two, one]


def test_without_adapters_the_same_model(loaded: LLM, llm: LLM) -> None:
    """The bits of a model that has no room for any."""
    sampling = SamplingParams(max_tokens=12, temperature=0, logprobs=3)
    assert loaded.generate(PROMPT, sampling) == llm.generate(PROMPT, sampling)


def test_what_is_passed_over_is_told(own: LLM, folder: Callable[..., Path]) -> None:
    """As PEFT does with a target that the model lacks."""
    with pytest.warns(UserWarning, match="passed over targets without tensors: 'c_attn'"):
        own.load_adapter("some", folder(4, targets=("q_proj", "c_attn")))
    assert own.generate(PROMPT, GREEDY, adapter="some") != own.generate(PROMPT, GREEDY)
    own.unload_adapter("some")


def test_names_that_are_not_loaded_or_taken(loaded: LLM, folder: Callable[..., Path]) -> None:
    with pytest.raises(RequestError, match=r"no adapter named 'three' is loaded: 'one', 'two'"):
        loaded.generate(PROMPT, GREEDY, adapter="three")
    with pytest.raises(RequestError, match="'one' is loaded"):
        loaded.load_adapter("one", folder(3))
    with pytest.raises(OutOfMemory, match="2 adapters are loaded"):
        loaded.load_adapter("three", folder(3))
    loaded.unload_adapter("one")
    with pytest.raises(RequestError, match="no adapter named 'one'"):
        loaded.unload_adapter("one")
    with pytest.raises(OutOfMemory, match=r"rank 9.*room for 8"):
        loaded.load_adapter("three", folder(3, rank=9))
    with pytest.raises(WeightsError, match=r"adapter_config.json"):
        loaded.load_adapter("three", folder(3).parent / "nowhere")
    assert loaded.adapters == ("two",)


def test_an_answer_keeps_the_adapter_that_is_unloaded_meanwhile(loaded: LLM) -> None:
    expected = loaded.generate(PROMPT, GREEDY, adapter="one")
    with loaded.stream(PROMPT, GREEDY, adapter="one") as stream:
        next(stream)
        loaded.unload_adapter("one")
        for _ in stream:
            pass
        assert stream.completion == expected


def test_the_memory_of_adapters_is_planned(own: LLM, llm: LLM, default_model: ModelFiles) -> None:
    sizes = [weight.shape for weight in describe(own.config).weights().values() if len(weight.shape) == 2]
    linears = [shape for shape in sizes if shape[0] != own.config.vocab]
    assert own.plan.adapter_bytes == 2 * sum(4 * 16 * (n + k) for n, k in linears)
    assert llm.plan.adapter_bytes == 0
    with pytest.raises(OutOfMemory, match=r"MB of adapters"):
        LLM(default_model, memory="300MB", context=512, adapters=8, adapter_rank=64)
    with pytest.raises(UsageError, match="adapter_rank is 0"):
        LLM(default_model, adapters=1, adapter_rank=0)


def test_adapters_of_experts_are_counted_when_they_are_loaded(
    mixture: Path, write_adapter: Callable[..., Any], tmp_path: Path
) -> None:
    """Room is made for what is no expert's: 48 experts' linears would take many times as much."""
    given: dict[str, Any] = {"context": 256, "cache_tokens": 512, "adapters": 2, "adapter_rank": 16}
    with LLM(mixture, **given) as llm:
        shapes = {name: weight.shape for name, weight in describe(llm.config).weights().items()}
        linears = [shape for name, shape in shapes.items() if "self_attn" in name and len(shape) == 2]
        assert llm.plan.adapter_bytes == 2 * sum(4 * 16 * (n + k) for n, k in linears)
        write_adapter(tmp_path / "all", shapes, rank=16)
        write_adapter(tmp_path / "attention", shapes, rank=16, targets=("q_proj", "o_proj"))
        llm.load_adapter("all", tmp_path / "all")  # where memory is free
        assert llm.generate(PROMPT, GREEDY, adapter="all") != llm.generate(PROMPT, GREEDY)
        plan = llm.plan
    total = plan.weights_bytes + plan.workspace_bytes + plan.cache_bytes + plan.adapter_bytes
    with LLM(mixture, memory=total + 100_000, **given) as llm:
        for name in ("one", "two"):
            llm.load_adapter(name, tmp_path / "attention")
        llm.unload_adapter("one")
        with pytest.raises(
            OutOfMemory, match=r"all: takes .* MB, and 0\.\d MB are left for adapters: unload"
        ):
            llm.load_adapter("all", tmp_path / "all")
        assert llm.adapters == ("two",)


def test_new_weights_have_a_version_that_answers_carry(own: LLM, tmp_path: Path) -> None:
    before = own.generate(PROMPT, GREEDY)
    version = own.weights_version
    assert before.weights_version == version
    norm = own.weights.vector(describe(own.config).weights()[LAST]).copy()
    other = norm * np.linspace(0.2, 3, len(norm), dtype=np.float32)
    assert own.update_weights({LAST: other}) == version + 1
    changed = own.generate(PROMPT, GREEDY)
    assert changed != before
    assert (changed.weights_version, changed.cached_tokens) == (version + 1, 0)
    save_file({LAST: norm}, tmp_path / "some.safetensors")
    assert asyncio.run(own.aupdate_weights(tmp_path / "some.safetensors")) == version + 2
    again = own.generate(PROMPT, GREEDY)
    assert again == before
    assert again.weights_version == version + 2


def test_idle_waits_for_what_runs_and_now_does_not(own: LLM) -> None:
    norm = own.weights.vector(describe(own.config).weights()[LAST]).copy()
    long = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    version = own.weights_version
    with own.stream(PROMPT, long) as stream:
        next(stream)
        update = threading.Thread(target=own.update_weights, args=({LAST: norm},))
        update.start()
        for _ in stream:
            pass
        update.join()
        assert stream.completion.weights_version == version
    assert own.weights_version == version + 1
    with own.stream(PROMPT, long) as stream:
        next(stream)
        assert own.update_weights({LAST: norm}, when="now") == version + 2
        for _ in stream:
            pass
        assert stream.completion.weights_version == version + 2


def test_an_update_that_is_refused(own: LLM) -> None:
    version, before = own.weights_version, own.generate(PROMPT, GREEDY)
    with pytest.raises(WeightsError, match=r"shape \[3\]"):
        own.update_weights({LAST: np.ones(3, np.float32)})
    with pytest.raises(UsageError, match="when is 'later'"):
        own.update_weights({}, when="later")  # type: ignore[arg-type]
    assert own.weights_version == version
    assert own.generate(PROMPT, GREEDY) == before


PATHS: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda _: None,
    "a number": lambda _: 3,
    "bytes": bytes,
    "no text": lambda _: "",
    "arrays": lambda _: [np.ones(3)],
    "nowhere": lambda path: path / "nowhere",
    "a zero byte": lambda path: f"{path}\0",
    "half a character": lambda path: f"{path}\ud800",
    "a long name": lambda path: path / ("n" * 300),
    "a long path": lambda path: path.joinpath(*["n" * 99] * 50),
    "a pipe": lambda path: os.mkfifo(path / "pipe") or path / "pipe",
    "a device": lambda _: "/dev/zero",
    "a folder": lambda path: path,
    "a text": lambda path: (path / "text").write_text("password: hunter2") and path / "text",
}


@pytest.mark.parametrize("kind", PATHS)
def test_whatever_the_path_is(own: LLM, tmp_path: Path, kind: str) -> None:
    path = PATHS[kind](tmp_path)
    for call in (own.update_weights, lambda path: own.load_adapter("new", path)):
        start = time.monotonic()
        with pytest.raises((UsageError, WeightsError)) as caught:
            call(path)
        assert time.monotonic() - start < 2
        assert len(str(caught.value)) < 400
        assert "hunter2" not in str(caught.value)
    assert own.adapters == ()
    assert own.generate(PROMPT, GREEDY).completion_tokens == 12


@pytest.mark.parametrize("name", [None, 3, "", ["a"], b"a"])
def test_a_name_that_is_none(own: LLM, tmp_path: Path, name: Any) -> None:
    with pytest.raises(UsageError, match=r"name is .*: give the adapter a name"):
        own.load_adapter(name, tmp_path)
    with pytest.raises(RequestError, match=r"no adapter named .* is loaded: none is$"):
        own.unload_adapter(name)


@pytest.mark.parametrize(
    "value", [None, "x", ["a"], [[1.0], [1.0, 2.0]], np.ones(576, np.int8), np.ones(576) * 1j, object()]
)
def test_arrays_that_are_none(own: LLM, value: object) -> None:
    with pytest.raises(WeightsError, match=r"tensor 'model\.norm\.weight' .*give floats"):
        own.update_weights({LAST: value})
    with pytest.raises(WeightsError, match="has no place in the model") as caught:
        own.update_weights({"x\n" * 5000: np.ones(3, np.float32)})
    assert len(str(caught.value)) < 300


def test_a_tensor_that_numpy_cannot_read(own: LLM) -> None:
    with pytest.raises(WeightsError, match=r"is no array for numpy \(TypeError: .*BFloat16.*\): give floats"):
        own.update_weights({LAST: torch.ones(576, dtype=torch.bfloat16)})


def test_a_closed_model_refuses_changes(default_model: ModelFiles, tmp_path: Path) -> None:
    llm = LLM(default_model, context=64, adapters=1)
    llm.close()
    with pytest.raises(RequestError, match="closed"):
        llm.load_adapter("one", tmp_path)
    with pytest.raises(RequestError, match="closed"):
        llm.update_weights({LAST: np.ones(576, np.float32)})
