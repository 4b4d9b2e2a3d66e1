"""Brings a model's parts together: files, sizes that fit, weights, tokenizer, template and engine."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from types import MappingProxyType

from sampan.catalog.progress import Progress, Silent
from sampan.core.memory import available_memory, give_back_freed_memory
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, SamplingParams
from sampan.engine import budget, tuning
from sampan.engine.engine import Engine
from sampan.engine.footprint import measure
from sampan.engine.runner import Runner
from sampan.engine.tuning import Tuning
from sampan.kernels import _native  # type: ignore[attr-defined]
from sampan.kernels.native import Machine, machine
from sampan.kernels.program import Cache
from sampan.models.config import ModelConfig
from sampan.models.registry import describe
from sampan.text.chat import ChatTemplate
from sampan.text.tokenizer import Tokenizer
from sampan.weights.checkpoint import Checkpoint, open_checkpoint
from sampan.weights.load import PackedWeights, require_kernel_sizes

MAX_ROWS = tuning.CHUNKS[-1]  # tokens of a step: a prompt's chunk


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model ready to use. `defaults`: its own sampling."""

    plan: budget.Plan
    tuning: Tuning
    config: ModelConfig
    machine: Machine
    weights: PackedWeights
    engine: Engine
    tokenizer: Tokenizer
    template: ChatTemplate | None
    defaults: SamplingParams


def load(
    files: ModelFiles,
    settings: Settings,
    wish: budget.Wish,
    *,
    threads: int | None,
    prefix_cache: bool,
    speculation: bool,
    progress: Progress | None = None,
) -> Loaded:
    """Load a model as wished; what does not fit is refused before anything is read. `progress` is told of the
    measurement that the first load on a machine takes."""
    here = machine(settings, threads)
    _import_what_stays(files)
    with ExitStack() as stack:
        checkpoint = open_checkpoint(files)
        for file in checkpoint.files.values():
            stack.callback(file.close)
        require_kernel_sizes(checkpoint)
        plan = budget.plan(measure(checkpoint, files.name, here, MAX_ROWS, wish.room), wish)
        tokenizer, template = text_of(files, checkpoint)
        defaults = defaults_of(checkpoint.generation)
        c = checkpoint.config
        # What the tokenizer was built from makes room for the weights.
        checkpoint = replace(checkpoint, metadata=MappingProxyType({}))
        give_back_freed_memory()
        weights = PackedWeights(checkpoint, here, plan.weights_bytes)
        asked = threads or settings.threads
        chosen = _tuning(files, settings, wish.memory, plan, weights, asked, progress or Silent())
        if chosen.threads != here.threads:
            here = machine(settings, chosen.threads)
        cache = Cache(plan.pages, c.layers, c.kv_heads, c.head_dim, plan.cache)
        runner = Runner(describe(c), weights, here, cache, MAX_ROWS, wish.room)
    runner.program.tune(chosen.direct_rows, chosen.row_block)
    runner.max_rows = max(chosen.chunk_rows, min(wish.max_sequences, MAX_ROWS))
    engine = Engine(
        runner,
        context=plan.context,
        vocabulary=c.vocab,
        eos_ids=tokenizer.eos_ids,
        max_sequences=wish.max_sequences,
        prefix_cache=prefix_cache,
        draft_rows=chosen.draft_rows if speculation else 0,
    )
    return Loaded(plan, chosen, c, here, weights, engine, tokenizer, template, defaults)


def _tuning(
    files: ModelFiles,
    settings: Settings,
    memory: int | None,
    plan: budget.Plan,
    weights: PackedWeights,
    asked: int | None,
    progress: Progress,
) -> Tuning:
    """What was measured before, or is now; huge pages are as it says from here on.

    A cache that is too small to measure with leaves the defaults, and the measurement to another time.
    """
    here, checkpoint = weights.machine, weights.checkpoint
    subject = tuning.fingerprint(checkpoint, here, plan.cache, asked)
    chosen = tuning.read(settings.home, subject, here.threads) if settings.tune else None
    _native.use_huge_pages(chosen.huge_pages if chosen else tuning.DEFAULT.huge_pages)
    if chosen:
        return chosen
    from sampan.engine import trial

    if not settings.tune or plan.pages < trial.PAGES:
        return Tuning(here.threads)
    progress.start(None, f"measuring this machine for {files.name} (once)")
    try:
        huge = _huge_pages(settings, memory, here)
        _native.use_huge_pages(huge)
        counts = tuning.thread_counts(asked, here.threads)
        machines = [here, *(machine(settings, count) for count in counts[1:])]
        layer = plan.weights_bytes // checkpoint.config.layers
        chosen = trial.tune(checkpoint.config, weights, machines, plan.cache, layer)
    finally:
        progress.finish()
    chosen = replace(chosen, huge_pages=huge)
    tuning.write(settings.home, subject, files.name, chosen)
    return chosen


def _huge_pages(settings: Settings, memory: int | None, here: Machine) -> bool:
    """As known from another model; measured where the budget has room for that, before it is needed."""
    from sampan.engine import trial

    for _, _, known in tuning.stored(settings.home, tuning.machine_print(here.isa)):
        return known.huge_pages
    room = memory or available_memory()
    if room is None or room < trial.PROBE_BYTES:
        return tuning.DEFAULT.huge_pages
    return trial.huge_pages(here)


def _import_what_stays(files: ModelFiles) -> None:
    """The tokenizer's modules: imported after the vocabulary is read, they would lie scattered among its
    parts and keep 3 MB of these from being given back."""
    import_module("tokenizers")
    import_module("sampan.text.gguf_vocab" if files.kind == "gguf" else "sampan.text.folder_vocab")


def text_of(files: ModelFiles, checkpoint: Checkpoint) -> tuple[Tokenizer, ChatTemplate | None]:
    """The tokenizer and the chat template of a model, None where it has none."""
    if files.kind == "gguf":
        metadata = checkpoint.metadata
        return Tokenizer.from_gguf(metadata), ChatTemplate.from_gguf(metadata)
    return Tokenizer.from_folder(files.path), ChatTemplate.from_folder(files.path)


def defaults_of(generation: Mapping[str, object]) -> SamplingParams:
    """The model's own sampling: `generation_config.json`, where a model that does not sample is greedy.

    A GGUF file has none: then the values that users of such files know, llama.cpp's.
    """
    if not generation:
        return SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
    defaults = SamplingParams()
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    given = {n: v for n in names if isinstance(v := generation.get(n), int | float)}
    if not generation.get("do_sample", False):
        given["temperature"] = 0
    return replace(defaults, **given)  # type: ignore[arg-type]
