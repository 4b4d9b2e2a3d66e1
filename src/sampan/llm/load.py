"""Brings a model's parts together: files, sizes that fit, weights, tokenizer, template and engine."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from types import MappingProxyType
from typing import Any

from sampan.catalog.progress import Progress, Silent
from sampan.core.memory import give_back_freed_memory
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, SamplingParams
from sampan.engine import budget
from sampan.engine.adapters import AdapterMemory
from sampan.engine.engine import Engine
from sampan.engine.runner import Runner
from sampan.kernels.backend import DRAFT_ROWS, Backend, CacheSize, Tuning
from sampan.kernels.experts import ExpertRoom
from sampan.kernels.graph import LOGITS, Graph
from sampan.kernels.ops import HIDDEN
from sampan.kernels.select import backend_named
from sampan.kernels.tensors import Tensors
from sampan.llm.drafts import DraftWish, beside, tokenizer_of
from sampan.llm.generation import defaults_of, warn
from sampan.models.config import ModelConfig
from sampan.models.registry import describe
from sampan.text.chat import ChatTemplate
from sampan.text.tokenizer import Tokenizer
from sampan.weights.checkpoint import Checkpoint, open_checkpoint
from sampan.weights.files import state_of
from sampan.weights.in_floats import Dtype, in_floats
from sampan.weights.purpose import Purpose

MAX_ROWS = 512  # tokens of a step: a prompt's chunk


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model ready to use. `weights`: as the backend has placed them. `defaults`: its own sampling."""

    plan: budget.Plan
    tuning: Tuning
    config: ModelConfig
    backend: Backend
    weights: Any
    engine: Engine
    purpose: Purpose
    tokenizer: Tokenizer
    template: ChatTemplate | None
    defaults: SamplingParams


def load(
    files: ModelFiles,
    settings: Settings,
    wish: budget.Wish,
    *,
    backend: str = "cpu",
    device: str | None = None,
    threads: int | None,
    prefix_cache: bool,
    draft: DraftWish,
    dtype: Dtype | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """Load a model as wished; what does not fit is refused before anything is read. `dtype`: of its matrices
    in memory, the file's own unless given. `progress` is told of the first load's measurement."""
    here: Backend = backend_named(backend, device, settings, threads)
    _import_what_stays(files)
    with ExitStack() as stack:
        checkpoint = open_checkpoint(files)
        for file in checkpoint.files.values():
            stack.callback(file.close)
        c = checkpoint.config
        output = output_of(checkpoint.purpose)
        tokenizer, template = text_of(files, checkpoint)
        experts = _experts_of(wish, checkpoint, settings)
        drafts = beside(checkpoint, draft, here, tokenizer, stack, on_disk=experts is not None)
        graph = drafts.main_graph(c) if drafts else graph_of(c, output)
        here.check(graph, checkpoint.where)
        plain = replace(checkpoint, metadata=MappingProxyType({}))
        tensors: Tensors = plain if dtype is None else in_floats(plain, dtype)
        own = here.needs(graph, tensors, MAX_ROWS, wish.room, experts)
        needs = drafts.needs_with(own) if drafts else own
        plan = budget.plan(budget.Footprint.of(needs, files.name, c.context), wish)
        defaults = defaults_of(
            checkpoint.generation, files, vocabulary=c.vocab, ends=tokenizer.eos_ids,
            metadata=checkpoint.metadata, say=warn(files),
        )  # fmt: skip
        # What the tokenizer was built from makes room for the weights.
        del checkpoint
        give_back_freed_memory()
        taken = own.weights if drafts and drafts.tensors else plan.weights_bytes
        weights = here.place(tensors, taken - plan.expert_bytes, experts)
        cache = CacheSize(plan.pages, plan.cache, plan.states)
        chosen = here.tune(
            lambda layers: graph if layers == c.layers else graph_of(replace(c, layers=layers), output),
            c.layers, weights, cache,
            name=files.name, memory=wish.memory, notice=_telling(progress or Silent()),
        )  # fmt: skip
        executable = here.compile(graph, weights, cache, MAX_ROWS, wish.room, chosen)
        drafter = drafts.compile(here, weights, cache, chosen, draft) if drafts else None
    runner = Runner(executable, plan.pages, wish.room, drafter, plan.states)
    runner.adapters.memory = AdapterMemory(plan.adapter_bytes, plan.left_bytes)
    runner.max_rows = max(chosen.chunk_rows, min(wish.max_sequences, MAX_ROWS))
    engine = Engine(
        runner, context=plan.context, vocabulary=c.vocab, eos_ids=tokenizer.eos_ids,
        max_sequences=wish.max_sequences, prefix_cache=prefix_cache,
        draft_rows=draft.rows(chosen.draft_rows, drafted=drafter is not None),
        lookup=draft.lookup and chosen.draft_rows > 0, forced_rows=DRAFT_ROWS if here.exact else 0,
    )  # fmt: skip
    return Loaded(plan, chosen, c, here, weights, engine, plain.purpose, tokenizer, template, defaults)


def _experts_of(wish: budget.Wish, checkpoint: Checkpoint, settings: Settings) -> ExpertRoom | None:
    """The memory for experts that otherwise stay on disk; None where all are in memory."""
    if wish.expert_memory is None:
        return None
    return ExpertRoom(wish.expert_memory, state_of(checkpoint.files), settings.experts_without)


def graph_of(config: ModelConfig, output: str = LOGITS) -> Graph:
    """What a model computes to give logits, or something else that it keeps."""
    return describe(config).graph(output)


def output_of(purpose: Purpose) -> str:
    """What a model is run for."""
    return LOGITS if purpose.pooling is None else HIDDEN


def _telling(progress: Progress) -> Any:
    @contextmanager
    def notice(text: str) -> Iterator[None]:
        progress.start(None, text)
        try:
            yield
        finally:
            progress.finish()

    return notice


def _import_what_stays(files: ModelFiles) -> None:
    """The tokenizer's modules: imported after the vocabulary is read, they would lie scattered among its
    parts and keep 3 MB of these from being given back."""
    import_module("tokenizers")
    import_module("sampan.text.vocab.gguf" if files.kind == "gguf" else "sampan.text.vocab.folder")


def text_of(files: ModelFiles, checkpoint: Checkpoint) -> tuple[Tokenizer, ChatTemplate | None]:
    """The tokenizer and the chat template of a model, None where it has none."""
    tokenizer = tokenizer_of(files, checkpoint)
    if files.kind == "gguf":
        return tokenizer, ChatTemplate.from_gguf(checkpoint.metadata)
    return tokenizer, ChatTemplate.from_folder(files.path)
