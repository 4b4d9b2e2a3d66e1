"""The real default model, loaded once: for engines of any size, and for transformers on the same weights."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from sampan.core.settings import Settings
from sampan.core.types import ModelFiles
from sampan.engine.engine import Engine
from sampan.engine.runner import Runner
from sampan.kernels.backend import CacheSize
from sampan.kernels.cpu.backend import CpuBackend
from sampan.llm import LLM
from sampan.llm.load import graph_of
from sampan.weights.checkpoint import open_checkpoint

torch.set_num_threads(1)  # two wait for each other where the machine is busy


@pytest.fixture(scope="session")
def settings() -> Settings:
    return replace(Settings.from_env(), isa=None, threads=None)


@pytest.fixture(scope="session")
def llm(default_model: ModelFiles, settings: Settings) -> Iterator[LLM]:
    with LLM(default_model, settings=settings, context=2048) as llm:
        yield llm


@pytest.fixture(scope="session")
def text() -> str:
    """English prose of about 2,000 tokens."""
    return (Path(__file__).parents[2] / "LICENSE").read_text()


@pytest.fixture(scope="session")
def engine(llm: LLM, settings: Settings) -> Callable[..., Engine]:
    """An engine of its own on the model's weights."""

    def make(threads: int = 1, isa: str | None = None, max_rows: int = 512, pages: int = 64) -> Engine:
        c, backend = llm.config, CpuBackend(replace(settings, isa=isa), threads)
        program = backend.compile(graph_of(c), llm.weights, CacheSize(pages), max_rows)
        runner = Runner(program, pages)
        return Engine(
            runner, context=1024, vocabulary=c.vocab, eos_ids=llm.tokenizer.eos_ids, max_sequences=16
        )

    return make


@pytest.fixture(scope="session")
def oracle(default_model: ModelFiles) -> LlamaForCausalLM:
    """Transformers' float32 model of the file's dequantised weights."""
    with open_checkpoint(default_model) as checkpoint:
        c = checkpoint.config
        weights = {name: torch.from_numpy(checkpoint.array(name)) for name in checkpoint.tensors}
        theta = checkpoint.metadata["llama.rope.freq_base"]
    config = LlamaConfig(
        hidden_size=c.hidden,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        intermediate_size=c.ffn,
        vocab_size=c.vocab,
        max_position_embeddings=c.context,
        rms_norm_eps=c.norm_eps,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    with torch.device("meta"):  # no time spent on random weights
        model: Any = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # which is the embedding
    model.tie_weights()
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    return model.eval()
