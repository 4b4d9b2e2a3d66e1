"""Tiny random models of every family, written and run by transformers, and the same files run natively."""

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Cache, PreTrainedModel
from transformers.utils import logging

from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, SamplingParams
from sampan.engine.blocks import BlockPool
from sampan.engine.runner import Runner
from sampan.engine.sequence import Sequence, Span
from sampan.kernels.backend import PAGE, AdapterRoom, Backend, CacheSize
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.experts import ExpertRoom
from sampan.llm.load import graph_of
from sampan.models.registry import describe, load_file
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.lora import read_lora

logging.disable_progress_bar()
torch.set_num_threads(1)  # the models are tiny, and machines that test are busy

PAGES = 64
cases = load_file(Path(__file__).parent / "cases.py")
CASES, SPARSE, HYBRID = cases.CASES, cases.SPARSE, cases.HYBRID
CONTEXT, STATES = cases.CONTEXT, 8


def round_inputs(module: torch.nn.Module) -> None:
    """From now on the linear rounds its inputs to bf16, as the native product of bf16 weights does."""
    module.register_forward_pre_hook(lambda _, args: (args[0].bfloat16().float(),))


@dataclass(frozen=True)
class Tiny:
    """A model on disk, and transformers' float32 model of the very weights in it; where these are bf16, its
    linears' inputs are too."""

    files: ModelFiles
    oracle: PreTrainedModel

    def expected(self, tokens: list[int], cache: Cache | None = None) -> np.ndarray:
        """Logits after every token [T, vocabulary]; `cache` is transformers' own kind of cache."""
        with torch.no_grad():
            out = self.oracle(torch.tensor([tokens]), cache=cache, use_cache=cache is not None)
        return out.logits[0].numpy()

    def prompt(self, length: int, seed: int = 0) -> list[int]:
        vocabulary = self.oracle.config.vocab_size
        return np.random.default_rng(seed).integers(0, vocabulary, length).tolist()


class Native:
    """The native program of a file, without the engine around it: some more tokens in, their logits out."""

    def __init__(
        self, files: ModelFiles, *, cache: str = "f32", threads: int = 1, room: AdapterRoom | None = None,
        backend: Backend | None = None, experts: ExpertRoom | None = None,
    ) -> None:  # fmt: skip
        backend = backend or CpuBackend(Settings(Path()), threads)
        with open_checkpoint(files) as checkpoint:
            self.weights = describe(checkpoint.config).weights()
            placed, size = backend.place(checkpoint, 0, experts), CacheSize(PAGES, cache, STATES)
            program = backend.compile(graph_of(checkpoint.config), placed, size, CONTEXT, room)
        self.runner = Runner(program, PAGES, room, states=STATES)
        self.pool = BlockPool(PAGES, PAGE)
        self._slots = cycle(range(STATES))

    def sequence(self, tokens: list[int], adapter: int = 0) -> Sequence:
        sequence = Sequence(0, tokens, len(tokens), SamplingParams(), 0, CONTEXT, frozenset())
        sequence.adapter, sequence.state.writes = adapter, next(self._slots)
        return sequence

    def step(self, *work: tuple[Sequence, int]) -> list[np.ndarray]:
        """Each sequence goes some tokens on; logits after each of these, [count, vocabulary]."""
        plan = []
        for sequence, count in work:
            assert self.pool.extend(sequence.pages, sequence.computed + count)
            plan.append(Span(sequence, sequence.computed, count, sample=True))
            sequence.computed += count
        rows = self.runner.rows(plan, sample_all=True)
        for sequence, _ in work:
            sequence.state.reads = sequence.state.writes
        assert not rows.unsound
        return np.split(rows.logits.copy(), list(accumulate(count for _, count in work))[:-1])

    def logits(self, tokens: list[int], chunk: int = CONTEXT, adapter: int = 0) -> np.ndarray:
        """Logits after every token of a new sequence, which is computed `chunk` tokens at a time."""
        sequence = self.sequence(tokens, adapter)
        parts = []
        while sequence.remaining:
            parts += self.step((sequence, min(chunk, sequence.remaining)))
        self.pool.release(sequence.pages)
        return np.concatenate(parts)


def randomise(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Weights of a trained model's size: nothing is zero or one, and attention is not uniform."""
    generator = torch.Generator().manual_seed(17)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        scale = 0.3 if weight.ndim == 1 else 1.5 * weight.shape[1] ** -0.5
        centre = 1.0 if name.endswith("norm.weight") else 0.0
        weight.data = (centre + scale * noise).to(dtype)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tiny]:
    """The tiny model of a case in CASES, in some float type; one model is written once."""

    @cache
    def make(case: str, dtype: torch.dtype = torch.float32, shard: str = "1GB") -> Tiny:
        given = (CASES | SPARSE | HYBRID)[case]
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**cases.SMALL | given))
        randomise(model, dtype)
        folder = tmp_path_factory.mktemp(case)
        model.save_pretrained(folder, max_shard_size=shard)
        oracle = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        for module in oracle.modules() if dtype is torch.bfloat16 else ():
            if isinstance(module, torch.nn.Linear):
                round_inputs(module)
        return Tiny(ModelFiles(folder, "folder", case, str(folder)), oracle.eval())

    return make


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[*CASES, *SPARSE, *HYBRID])
def any_case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=HYBRID)
def hybrid_case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[*SPARSE, *(case for case in HYBRID if "num_experts" in HYBRID[case])])
def mixed_case(request: pytest.FixtureRequest) -> str:
    """A case with experts."""
    return str(request.param)


@pytest.fixture(params=[*SPARSE, *HYBRID])
def sparse_case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def native() -> Callable[..., Native]:
    return cache(Native)


@pytest.fixture
def adapted(native: Callable[..., Native], write_adapter: Callable[..., Any], tmp_path: Path) -> Any:
    """The native program of a model with a random adapter, its id until the test ends, and the model with the
    adapter merged: W + scale * B A."""
    kept: list[tuple[Runner, int]] = []

    def load(model: Any, room: AdapterRoom, *, seed: int = 0, scale: float, **options: Any) -> Any:
        here, folder = native(model.files, room=room), tmp_path / f"{seed}"
        weights = here.weights
        linears = [(n, m) for n, m in model.oracle.named_modules() if isinstance(m, torch.nn.Linear)]
        shapes = {f"{name}.weight": tuple(linear.weight.shape) for name, linear in linears}
        deltas = write_adapter(folder, shapes, seed=seed, **options)
        adapter = read_lora(folder, weights)
        found = here.runner.adapters.load(adapter)
        adapter.close()
        kept.append((here.runner, found))
        merged = type(model)(model.files, deepcopy(model.oracle))
        with torch.no_grad():
            for module, (a, b) in deltas.items():
                weight = merged.oracle.get_submodule(module).weight
                weight += scale * torch.tensor(b).float() @ torch.tensor(a).float()
        return here, found, merged

    yield load
    for runner, adapter in kept:
        runner.adapters.unload(adapter)


@pytest.fixture(scope="session")
def rounding() -> Callable[[torch.nn.Module], None]:
    """`round_inputs`."""
    return round_inputs


@pytest.fixture(scope="session")
def error() -> Callable[[np.ndarray, np.ndarray], float]:
    """The largest difference, as a part of the expected logits' range."""

    def largest(found: np.ndarray, expected: np.ndarray) -> float:
        assert found.shape == expected.shape
        return float(np.abs(found - expected).max() / (expected.max() - expected.min()))

    return largest


@pytest.fixture(scope="session")
def digest() -> Callable[[str, np.ndarray], None]:
    """`digest(name, logits)`: their bits are those of `digests.json`, written before the graph was there.

    A name that is missing there is a failure that shows its line.
    """
    known: dict[str, str] = json.loads((Path(__file__).parent / "digests.json").read_text())

    def check(name: str, logits: np.ndarray) -> None:
        assert logits.dtype == np.float32
        found = hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()[:24]
        assert known.get(name) == found, f'"{name}": "{found}"'

    return check
