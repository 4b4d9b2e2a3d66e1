"""A model that drafts, the checkpoint's own layer or a small one, changes how many steps an answer takes and
not a bit of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, SamplingParams
from sampan.engine.drafter import ModelDrafter
from sampan.engine.engine import Engine
from sampan.engine.runner import Runner
from sampan.kernels.backend import CacheSize
from sampan.kernels.cpu.backend import CpuBackend
from sampan.kernels.graph import LOGITS
from sampan.kernels.ops import HIDDEN, STATES
from sampan.llm.load import graph_of
from sampan.models.registry import describe
from sampan.weights.checkpoint import open_checkpoint

Make = Callable[..., Any]
GREEDY = SamplingParams(max_tokens=50, temperature=0, logprobs=2)
RNG = np.random.default_rng(4)
PROMPTS = [RNG.integers(0, 260, length).tolist() for length in (3, 40, 7, 100)]
SAMPLINGS = {
    "greedy": GREEDY,
    "seeded": SamplingParams(max_tokens=50, temperature=0.7, top_k=20, seed=5, logprobs=2),
    "warm": SamplingParams(max_tokens=50, temperature=1.0, top_p=0.9, min_p=0.05, seed=6),
    "penalised": replace(GREEDY, repetition_penalty=1.1, presence_penalty=0.2, logit_bias={4: 1.0}),
}
KINDS = ("mtp", "model")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, predicted: Any) -> tuple[Path, Path]:
    """Of the main model and of a small one that is like it."""
    main, small = (tmp_path_factory.mktemp(name) for name in ("main", "small"))
    predicted.write(main)
    predicted.write(small, predicted.random_tensors(mixed=0.1))
    return main, small


@pytest.fixture
def engine_of(folders: tuple[Path, Path], predicted: Any) -> Make:
    """An engine in which nobody drafts, or "mtp" or a "model"."""

    def make(
        kind: str | None = None, *, pages: int = 64, max_rows: int = 64, depth: int = 3, lookup: bool = False,
        confidence: float = 0.3, draft_rows: int = 8, prefix_cache: bool = True, small_rows: int = 64,
    ) -> Engine:  # fmt: skip
        backend, size = CpuBackend(Settings(folders[0]), 1), CacheSize(pages)
        drafter = None
        with open_checkpoint(files(folders[0])) as main, open_checkpoint(files(folders[1])) as small:
            model, placed = describe(main.config), backend.place(main)
            graph = graph_of(main.config)
            if kind == "mtp":
                graph = model.graph(LOGITS, HIDDEN).of_every_row(HIDDEN, STATES)
            program = backend.compile(graph, placed, size, max_rows)
            if kind is not None:
                layer, own = model.draft().graph(LOGITS, HIDDEN), graph_of(small.config)
                weights = placed if kind == "mtp" else backend.place(small)
                beside = backend.compile(layer if kind == "mtp" else own, weights, size, small_rows)
                drafter = ModelDrafter(
                    beside, name=kind, depth=depth, confidence=confidence, states=kind == "mtp", context=512,
                    vocabulary=predicted.VOCAB,
                )  # fmt: skip
        runner = Runner(program, pages, None, drafter)
        return Engine(
            runner, context=512, vocabulary=predicted.VOCAB, eos_ids=frozenset(), max_sequences=8,
            prefix_cache=prefix_cache, draft_rows=draft_rows, lookup=lookup,
        )  # fmt: skip

    return make


def files(folder: Path) -> ModelFiles:
    return ModelFiles(folder, "folder", "predicted", str(folder))


@pytest.fixture
def plain(engine_of: Make, tokens_of: Make) -> Make:
    """Answers one after another without drafts, in an engine of their own."""
    return lambda prompts, sampling: [
        tokens_of(engine_of(draft_rows=0).stream(prompt, sampling)) for prompt in prompts
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_answers_are_those_of_plain_decoding(
    kind: str, sampling: SamplingParams, engine_of: Make, plain: Make, finish: Make, tokens_of: Make
) -> None:
    alone = plain(PROMPTS, sampling)
    for options in (
        {},
        {"max_rows": 16, "small_rows": 40},
        {"pages": 9},
        {"lookup": True, "draft_rows": 16},
    ):
        engine = engine_of(kind, **options)
        requests = [engine.add(prompt, sampling) for prompt in PROMPTS]
        events = finish(engine)
        assert [tokens_of(events[request]) for request in requests] == alone
        again = [tokens_of(engine.stream(prompt, sampling)) for prompt in PROMPTS]  # cached prefixes
        assert again == alone
        drafted, accepted = engine.counters.depths[kind][0]
        assert 0 < accepted < drafted
        assert engine.pool.free == engine.pool.count
        if "pages" in options:
            assert engine.counters.preempted > 0


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_are_as_deep_and_as_sure_as_asked(kind: str, engine_of: Make, tokens_of: Make) -> None:
    held = []
    for confidence in (0.0, 0.4):
        engine = engine_of(kind, depth=4, confidence=confidence)
        for prompt in PROMPTS:
            tokens_of(engine.stream(prompt, GREEDY))
        depths = engine.counters.depths[kind]
        assert 2 < len(depths) <= 4
        assert [row[0] for row in depths] == sorted((row[0] for row in depths), reverse=True)
        assert engine.counters.drafted == sum(row[0] for row in depths)
        assert engine.counters.accepted == sum(row[1] for row in depths)
        assert all(accepted > 0 for _, accepted in depths[:2])
        held.append(engine.counters.accepted / engine.counters.drafted)
    assert held[1] > held[0]
    never = engine_of(kind, confidence=1.0)
    tokens_of(never.stream(PROMPTS[0], GREEDY))
    assert never.counters.drafted == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_cached_prompt_is_drafted_from_as_well(kind: str, engine_of: Make, tokens_of: Make) -> None:
    """What another request has left in the pages, one row of a page aside, is what it would compute."""
    fresh, shared = engine_of(kind, prefix_cache=False), engine_of(kind)
    tokens_of(shared.stream(PROMPTS[3], replace(GREEDY, max_tokens=1)))
    first = tokens_of(fresh.stream(PROMPTS[3], GREEDY))
    events = list(shared.stream(PROMPTS[3], GREEDY))
    assert tokens_of(events) == first
    assert events[0].cached_tokens == 96
    assert shared.counters.depths[kind] == fresh.counters.depths[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_there_in_time_however_long_nobody_drafts(
    kind: str, engine_of: Make, tokens_of: Make, finish: Make
) -> None:
    """A sequence that decodes among many is not drafted for; its rows are computed some at a time, and its
    drafts are as good as ever once it is alone."""
    engine = engine_of(kind, draft_rows=4)
    long = engine.add(PROMPTS[0], replace(GREEDY, max_tokens=150))
    others = [engine.add([n] * 5, replace(GREEDY, max_tokens=100)) for n in range(4)]
    answer = tokens_of(finish(engine)[long])
    assert len(others) == 4
    alone = engine_of(kind, draft_rows=4)
    sequence = [*PROMPTS[0], *(token.token for token in answer[:100])]
    tokens_of(alone.stream(sequence, replace(GREEDY, max_tokens=50)))
    found, expected = (e.counters.accepted / e.counters.drafted for e in (engine, alone))
    assert found == pytest.approx(expected, abs=0.15)


def test_an_aborted_request_leaves_nothing(engine_of: Make, finish: Make) -> None:
    for kind in KINDS:
        engine = engine_of(kind)
        request = engine.add(PROMPTS[1], GREEDY)
        other = engine.add(PROMPTS[2], GREEDY)
        for _ in range(5):
            engine.step()
        assert engine.abort(request)
        assert set(finish(engine)) == {other}
