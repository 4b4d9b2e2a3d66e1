"""Models that carry a state, through the engine: whatever is reused, taken back or given up, every answer has
the tokens and the log-probabilities that it has alone."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, SamplingParams, TokenLogprob
from sampan.engine import budget
from sampan.engine.engine import Engine
from sampan.engine.runner import Runner
from sampan.kernels.backend import AdapterRoom, CacheSize
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.graph import LOGITS
from sampan.kernels.ops import HIDDEN
from sampan.llm.load import graph_of
from sampan.models.registry import load_file as load_module
from sampan.weights.checkpoint import open_checkpoint
from sampan.weights.update import from_arrays

add_layer = load_module(Path(__file__).parent / "drafting.py").add_layer

Make = Callable[..., Any]
CASES = ("qwen3_next", "qwen3_5", "qwen3_next-odd")
GREEDY = SamplingParams(max_tokens=50, temperature=0, ignore_eos=True, logprobs=1)
FEW = replace(GREEDY, logit_bias={4: 90.0, 5: 90.0})  # of two tokens drafts hold, and miss, often enough
SEEDED = replace(FEW, temperature=0.7, top_k=5, seed=3)


@pytest.fixture
def engine_of(tiny: Make) -> Make:
    """`engine_of(case)`: an engine on a tiny model; by default nothing is reused and nothing drafted."""

    def make(
        case: str, *, pages: int = 64, states: int = 8, max_rows: int = 64, prefix_cache: bool = False,
        draft_rows: int = 0, max_sequences: int = 8, output: str = LOGITS,
    ) -> Engine:  # fmt: skip
        model = tiny(case)
        backend = CpuBackend(Settings(Path()), 1)
        with open_checkpoint(model.files) as checkpoint:
            placed, size = backend.place(checkpoint), CacheSize(pages, "bf16", states)
            program = backend.compile(graph_of(checkpoint.config, output), placed, size, max_rows)
        vocabulary = model.oracle.config.vocab_size
        return Engine(
            Runner(program, pages, states=states), context=400, vocabulary=vocabulary, eos_ids=frozenset(),
            max_sequences=max_sequences, prefix_cache=prefix_cache, draft_rows=draft_rows,
        )  # fmt: skip

    return make


def answers(engine: Engine, prompts: list[list[int]], sampling: SamplingParams) -> list[list[TokenLogprob]]:
    """Made side by side; no slot and no page is lost."""
    found: dict[int, list[TokenLogprob]] = {engine.add(prompt, sampling): [] for prompt in prompts}
    while not engine.idle:
        for event in engine.step():
            assert event.token is not None, event.error
            found[event.request].append(event.token)
    assert engine.pool.free == engine.pool.count
    assert engine.scheduler.states.free == engine.scheduler.states.count
    return list(found.values())


def alone(engine: Engine, prompts: list[list[int]], sampling: SamplingParams) -> list[list[TokenLogprob]]:
    return [answers(engine, [prompt], sampling)[0] for prompt in prompts]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def prompts_of(model: Any) -> list[list[int]]:
    """Some begin alike, some say the same again and again."""
    common, own = model.prompt(70), model.prompt(9, seed=1)
    return [common, common + own, common[:64] + own * 4, own * 8, common[:3]]


@pytest.mark.parametrize("sampling", [FEW, SEEDED], ids=["greedy", "seeded"])
def test_known_beginnings_and_drafts_change_no_bit(
    case: str, sampling: SamplingParams, tiny: Make, engine_of: Make
) -> None:
    prompts = prompts_of(tiny(case))
    expected = alone(engine_of(case), prompts, sampling)
    for draft_rows in (0, 12):
        engine = engine_of(case, prefix_cache=True, draft_rows=draft_rows)
        for _ in range(2):
            assert answers(engine, prompts, sampling) == expected
        assert engine.counters.found > 0
        assert not draft_rows or 0 < engine.counters.accepted < engine.counters.drafted


@pytest.mark.parametrize("states", [1, 2, 5])
def test_few_slots_and_few_pages_change_no_bit(case: str, states: int, tiny: Make, engine_of: Make) -> None:
    prompts = prompts_of(tiny(case))
    expected = alone(engine_of(case), prompts, FEW)
    tight = engine_of(case, pages=7, states=states, max_rows=40, prefix_cache=True, draft_rows=8)
    assert answers(tight, prompts, FEW) == expected
    assert answers(tight, prompts[::-1], FEW) == expected[::-1]
    assert states < 5 or tight.counters.preempted > 0


def test_the_next_turn_begins_where_the_answer_ended(tiny: Make, engine_of: Make) -> None:
    prompt = tiny("qwen3_next").prompt(70)
    engine = engine_of("qwen3_next", prefix_cache=True)
    (answer,) = answers(engine, [prompt], GREEDY)
    following = prompt + [token.token for token in answer] + [1, 2, 3]
    request = engine.add(following, replace(GREEDY, max_tokens=1))
    (event,) = [event for _ in range(9) for event in engine.step() if event.request == request]
    assert event.cached_tokens == (len(prompt) + len(answer) - 1) // 32 * 32


def test_where_prompts_part_a_state_is_kept_for_those_that_follow(tiny: Make, engine_of: Make) -> None:
    common = tiny("qwen3_next").prompt(100)
    engine = engine_of("qwen3_next", prefix_cache=True, max_rows=512)
    found = []
    for own in range(3):
        request = engine.add([*common, *[own] * 60], replace(GREEDY, max_tokens=1))
        (event,) = [event for _ in range(9) for event in engine.step() if event.request == request]
        found.append(event.cached_tokens)
    assert found == [0, 0, 96]


def test_scores_are_those_of_the_whole_text(case: str, tiny: Make, engine_of: Make) -> None:
    model = tiny(case)
    text = model.prompt(150)
    expected = engine_of(case, max_rows=512).score(text)
    engine = engine_of(case, prefix_cache=True, max_rows=40)
    for length in (150, 100, 150):
        assert np.array_equal(engine.score(text[:length]), expected[: length - 1])


EVERY = ("q_proj", "k_proj", "o_proj", "out_proj")
BESIDE = ("model.visual.merger.norm.weight", "model.visual.pos_embed.weight")
TARGETS = {
    "qwen3_next": (*EVERY, "in_proj_qkvz", "in_proj_ba"),
    "qwen3_5": (*EVERY, "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b"),
}


def test_adapters_reach_every_linear_of_a_mixer(case: str, tiny: Make, adapted: Make, error: Make) -> None:
    here, adapter, merged = adapted(
        tiny(case), AdapterRoom(1, 4), targets=TARGETS[case.removesuffix("-odd")], scale=2.0
    )
    prompt = merged.prompt(100, seed=4)  # no router's choice is nearly a tie, which PyTorch breaks by machine
    found = here.logits(prompt, 40, adapter=adapter)
    assert error(found, merged.expected(prompt)) < 1e-5
    assert error(found, tiny(case).expected(prompt)) > 0.05
    assert np.array_equal(here.logits(prompt, adapter=adapter), found)


def test_a_model_of_text_is_read_out_of_one_of_pictures(tiny: Make, native: Make, tmp_path: Path) -> None:
    """Qwen3.5 as it is published: the text's configuration and names inside of another, an encoder of
    pictures and a layer that drafts beside them."""
    model = tiny("qwen3_5")
    shutil.copytree(model.files.path, tmp_path, dirs_exist_ok=True)
    add_layer(tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    tensors = {name.replace("model.", "model.language_model.", 1): value for name, value in found.items()}
    tensors |= {name: np.ones(8, np.float32) for name in BESIDE}
    save_file(tensors, tmp_path / "model.safetensors")
    text = json.loads((model.files.path / "config.json").read_text())
    whole = {"model_type": "qwen3_5", "text_config": text, "vision_config": {"depth": 1}}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    prompt, files = model.prompt(50), ModelFiles(tmp_path, "folder", "pictures", str(tmp_path))
    with open_checkpoint(files) as checkpoint:
        assert checkpoint.drafts
    other = native(files)
    assert np.array_equal(other.logits(prompt), native(model.files).logits(prompt))


@pytest.mark.parametrize("how", ["mean", "last"])
def test_vectors_are_those_of_the_whole_prompt(how: Any, tiny: Make, engine_of: Make) -> None:
    prompts = prompts_of(tiny("qwen3_5"))
    whole = engine_of("qwen3_5", output=HIDDEN, max_rows=512)
    expected = [vector_of(whole, prompt, how) for prompt in prompts]
    engine = engine_of("qwen3_5", output=HIDDEN, prefix_cache=True, max_rows=40)
    for _ in range(2):
        assert [vector_of(engine, prompt, how) for prompt in prompts] == expected
    assert engine.counters.found > 0


def vector_of(engine: Engine, prompt: list[int], how: Any) -> tuple[float, ...]:
    engine.add(prompt, SamplingParams(max_tokens=0), pooling=how)
    (event,) = [event for _ in range(9) for event in engine.step()]
    return event.vector


def test_new_values_are_those_of_a_model_that_had_them(
    case: str, tiny: Make, native: Make, tmp_path: Path
) -> None:
    """Also of norms that multiply by one more, and of convolutions."""
    model = tiny(case)
    path = model.files.path
    tensors = load_file(path / "model.safetensors")
    at = "model.layers.0."
    names = (
        "input_layernorm.weight",
        "linear_attn.conv1d.weight",
        "linear_attn.A_log",
        "linear_attn.norm.weight",
    )
    new = {at + name: tensors[at + name] * np.float32(1.5) for name in names}
    save_file(tensors | new, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    make = native.__wrapped__
    here, other = make(model.files), make(ModelFiles(tmp_path, "folder", "new", ""))
    flat = {name: value.reshape(len(value), -1) if value.ndim > 2 else value for name, value in new.items()}
    here.runner.update(from_arrays(flat))
    prompt = model.prompt(40)
    assert np.array_equal(here.logits(prompt), other.logits(prompt))


def test_what_is_planned_is_what_is_allocated(case: str, tiny: Make) -> None:
    backend = CpuBackend(Settings(Path()), 1)
    with open_checkpoint(tiny(case).files) as checkpoint:
        graph = graph_of(checkpoint.config)
        needs = backend.needs(graph, checkpoint, 64)
        made = budget.plan(
            budget.Footprint.of(needs, case, 400), budget.Wish(memory=20_000_000, max_sequences=5)
        )
        size = CacheSize(made.pages // 8 * 8, made.cache, made.states)
        program = backend.compile(graph, backend.place(checkpoint), size, 64)
    assert made.states == 10
    assert program.program.state_bytes == made.states * needs.state
    allocated = program.program.cache_bytes + program.program.state_bytes
    assert allocated == made.cache_bytes - made.pages % 8 * needs.page[made.cache]
    states = [state.state for state in graph.states()]
    whole = [(many, *(-(-size // 16) * 16 for size in sizes)) for many, *sizes in states]  # vectors of 16
    floats = sum(np.prod(shape) for shape in whole)
    assert needs.state == 4 * floats
    assert program.workspace_bytes == needs.workspace


def test_an_aborted_request_leaves_its_slots(tiny: Make, engine_of: Make) -> None:
    engine = engine_of("qwen3_5", prefix_cache=True, draft_rows=8)
    prompts = prompts_of(tiny("qwen3_5"))
    for steps in range(1, 30, 4):
        requests = [engine.add(prompt, GREEDY) for prompt in prompts]
        for _ in range(steps):
            engine.step()
        for request in requests:
            engine.abort(request)
        assert engine.scheduler.states.free == engine.scheduler.states.count
