"""Engines on a tiny random model, whose weights a test may edit first, and what holds for every pool."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, TokenLogprob
from sampan.engine.blocks import BlockPool
from sampan.engine.engine import Engine
from sampan.engine.runner import Runner
from sampan.engine.sequence import Event
from sampan.kernels.backend import DRAFT_ROWS, AdapterRoom, CacheSize
from sampan.kernels.cpu.backend import CpuBackend
from sampan.llm.load import graph_of
from sampan.weights.checkpoint import open_checkpoint

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 64, 2, 2, 1, 32, 96, 97
Weights = dict[str, np.ndarray]
CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "intermediate_size": FFN,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}


def random_weights() -> Weights:
    layer = {
        "input_layernorm": (HIDDEN,),
        "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (FFN, HIDDEN),
        "mlp.up_proj": (FFN, HIDDEN),
        "mlp.down_proj": (HIDDEN, FFN),
    }
    shapes = {
        f"model.layers.{n}.{name}.weight": shape for n in range(LAYERS) for name, shape in layer.items()
    }
    shapes |= {"model.embed_tokens.weight": (VOCAB, HIDDEN), "lm_head.weight": (VOCAB, HIDDEN)}
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    weights["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    return weights | {n: np.ones_like(w) for n, w in weights.items() if w.ndim == 1}


@pytest.fixture
def make_engine(tmp_path: Path) -> Callable[..., Engine]:
    """An engine on the weights after `edit`; `pages` of 32 tokens, by default enough for every sequence."""

    def make(
        edit: Callable[[Weights], None] = lambda _: None,
        *,
        context: int = 128,
        pages: int = 64,
        max_rows: int = 64,
        max_sequences: int = 8,
        eos: Iterable[int] = (),
        prefix_cache: bool = True,
        draft_rows: int = DRAFT_ROWS,
        forced_rows: int = 0,
        room: AdapterRoom | None = None,
    ) -> Engine:
        weights = random_weights()
        edit(weights)
        (tmp_path / "config.json").write_text(json.dumps(CONFIG))
        save_file(weights, tmp_path / "model.safetensors")
        backend = CpuBackend(Settings(tmp_path), 1)
        with open_checkpoint(ModelFiles(tmp_path, "folder", "tiny", str(tmp_path))) as checkpoint:
            graph, placed = graph_of(checkpoint.config), backend.place(checkpoint)
            program = backend.compile(graph, placed, CacheSize(pages), max_rows, room)
        runner = Runner(program, pages, room)
        return Engine(
            runner,
            context=context,
            vocabulary=VOCAB,
            eos_ids=frozenset(eos),
            max_sequences=max_sequences,
            prefix_cache=prefix_cache,
            draft_rows=draft_rows,
            forced_rows=forced_rows,
        )

    return make


@pytest.fixture
def finish() -> Callable[..., dict[int, list[Event]]]:
    """Steps an engine until it is idle; gives the events of each request, and checks that no page is lost."""

    def run(engine: Engine, most: int = 10000) -> dict[int, list[Event]]:
        events: dict[int, list[Event]] = {}
        for _ in range(most):
            if engine.idle:
                break
            for event in engine.step():
                events.setdefault(event.request, []).append(event)
        assert engine.idle
        assert engine.pool.free == engine.pool.count
        return events

    return run


@pytest.fixture
def tokens_of() -> Callable[[Iterable[Event]], list[TokenLogprob]]:
    def tokens(events: Iterable[Event]) -> list[TokenLogprob]:
        return [event.token for event in events if event.token is not None]

    return tokens


@pytest.fixture(scope="session")
def check_pool() -> Callable[[BlockPool, Iterable[Iterable[int]]], None]:
    """Every page is empty, idle or held; held as often as it has holders; findable by one key of its own, and
    one of what begins it."""

    def check(pool: BlockPool, holders: Iterable[Iterable[int]]) -> None:
        held = Counter(page for pages in holders for page in pages)
        assert sorted([*pool._empty, *pool._idle, *held]) == list(range(pool.count))
        assert pool._holders == [held[page] for page in range(pool.count)]
        assert pool.free == pool.count - len(held)
        assert {page: key for key, page in pool._found.items()} == pool._keys
        assert {page: key for key, page in pool._tails.items()} == pool._tail_keys
        findable = {*pool._keys, *pool._tail_keys}
        assert set(pool._idle) <= findable
        assert not set(pool._empty) & findable
        # Whoever finds a page has found the one before it, and that one is needed longer.
        serials = {pool._serials[page]: page for page in pool._keys}
        assert len(serials) == pool.cached
        order = {page: place for place, page in enumerate(pool._idle)}
        for page, (before, _) in pool._keys.items():
            if before:
                parent = serials[before]
                assert order.get(page, -1) < order.get(parent, pool.count)
                assert held[parent] >= held[page]

    return check
