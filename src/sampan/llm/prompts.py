"""Prompts, conversations and texts to score, made requests by a model's tokenizer and template."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from sampan.core.errors import RequestError, TemplateError, quoted, shortened
from sampan.core.types import Grammar, SamplingParams, Score, Scoring, TokenScore
from sampan.llm.answer import Prompt
from sampan.llm.changes import Adapters
from sampan.llm.driver import Driver, Request
from sampan.llm.inputs import (
    Ids,
    Inputs,
    Messages,
    Sampling,
    conversations_of,
    is_conversation,
    not_a_conversation,
    prompts_of,
    samplings,
)
from sampan.llm.tools import Offer
from sampan.text.chat import ChatTemplate
from sampan.text.reasoning import starts_inside_reasoning
from sampan.text.tokenizer import Tokenizer
from sampan.text.veil import Veil


class GenerateOptions(TypedDict, total=False):
    """See `LLM.generate`."""

    templated: bool
    grammar: Grammar | None
    adapter: str | None


class ScoreOptions(TypedDict, total=False):
    """See `LLM.score`."""

    start: int | Sequence[int]
    top: int
    ranks: bool
    entropy: bool
    temperature: float
    adapter: str | None


@dataclass(frozen=True)
class Given:
    """What an answer follows. `thinking`: it has opened a block of reasoning. `continues`: the answer is more
    of its text, not a turn of its own."""

    ids: list[int]
    thinking: bool
    continues: bool


@dataclass(frozen=True)
class Prompts:
    """Makes requests of what users hand in. `name`: the model's, for errors. `defaults`: its own sampling.
    `closing`: what ends its reasoning. `literal`: control tokens that are written in messages are plain
    text."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    defaults: SamplingParams
    adapters: Adapters
    driver: Driver
    closing: str
    literal: bool = False

    def rendered(self, messages: Messages, template: Mapping[str, Any]) -> str:
        """See `LLM.prompt`."""
        if self.template is None:
            raise RequestError(f"{shortened(self.name)} has no chat template: give it plain text (--raw)")
        if not is_conversation(messages):
            raise not_a_conversation(messages)
        offer = self.offered(template)
        if offer is not None:
            messages, listed = offer.told(messages)
            template = {**template, "tools": listed}
        try:
            return self.template.render(messages, add_generation_prompt=True, **template)
        except TemplateError as error:
            raise TemplateError(f"{error}; plain text goes past the template (--raw)") from error

    def offered(self, template: Mapping[str, Any]) -> Offer | None:
        """The tools among the variables of a template."""
        if self.template is None:
            return None
        return Offer.of(template.get("tools"), self.template, self.tokenizer)

    def generation(
        self,
        prompts: object,
        sampling: Sampling,
        n: int | None = None,
        *,
        templated: bool = False,
        grammar: Grammar | None = None,
        adapter: str | None = None,
    ) -> tuple[Inputs, list[Prompt]]:
        """What was handed in, and all that there is to answer; see `LLM.generate`."""
        self.driver.require_here()
        if not isinstance(templated, bool):
            raise RequestError(f"templated is {quoted(templated)}: give True or False")
        inputs = prompts_of(prompts, n)
        texts = (self._text(item, templated) for item in inputs.items)
        return inputs, self._spread(inputs, texts, sampling, grammar, adapter)

    def _text(self, item: str | Ids, templated: bool) -> Given:
        ids = self._ids(item, templated)
        thinking = templated and isinstance(item, str) and starts_inside_reasoning(item)
        return Given(ids, thinking, self.tokenizer.continues(ids))

    def conversation(
        self,
        messages: object,
        sampling: Sampling,
        n: int | None,
        grammar: Grammar | None,
        adapter: str | None,
        template: Mapping[str, Any],
    ) -> tuple[Inputs, list[Prompt]]:
        """The same for conversations; see `LLM.chat`."""
        self.driver.require_here()
        inputs = conversations_of(messages, n)
        offer = self.offered(template)
        form = grammar if offer is None else offer.grammar(self._checked(grammar))
        turns = (self._turn(item, template) for item in inputs.items)
        asked = self._spread(inputs, turns, sampling, form, adapter)
        return inputs, asked if offer is None else [replace(each, tools=offer) for each in asked]

    def _turn(self, messages: Messages, template: Mapping[str, Any]) -> Given:
        veil = Veil(self.tokenizer)
        given = veil.over((messages, template)) if self.literal else (messages, template)
        prompt = self.rendered(*given)
        return Given(veil.encode(prompt), starts_inside_reasoning(prompt), continues=False)

    def single(
        self,
        prompt: object,
        sampling: Sampling,
        templated: bool,
        grammar: Grammar | None,
        adapter: str | None,
        template: Mapping[str, Any],
    ) -> Prompt:
        """The prompt or the conversation to stream."""
        if is_conversation(prompt):
            return self.conversation(prompt, sampling, None, grammar, adapter, template)[1][0]
        if template:
            raise RequestError(f"{', '.join(template)[:80]} are the chat template's: give messages to render")
        inputs, prompts = self.generation(
            prompt, sampling, templated=templated, grammar=grammar, adapter=adapter
        )
        if not inputs.single:
            raise RequestError("one prompt or one conversation can be streamed, not a list of them")
        return prompts[0]

    def _spread(
        self,
        inputs: Inputs,
        items: Iterable[Given],
        sampling: Sampling,
        grammar: Grammar | None,
        adapter: str | None,
    ) -> list[Prompt]:
        """Every item as a prompt, `n` times."""
        chosen = samplings(sampling, len(inputs.items), self.defaults)
        model = None if adapter is None else self.adapters.named(adapter)
        pairs = zip(items, chosen, strict=True)
        return inputs.spread([self._prompt(given, each, grammar, model) for given, each in pairs])

    def _prompt(
        self, given: Given, sampling: SamplingParams, grammar: Grammar | None, adapter: int | None
    ) -> Prompt:
        grammar = self._checked(grammar)
        thinking, continues = given.thinking, given.continues
        return Prompt(given.ids, sampling, thinking, grammar, adapter, self.closing, continues)

    def _ids(self, item: str | Ids, templated: bool = False) -> list[int]:
        return self.tokenizer.encode(item, add_bos=not templated) if isinstance(item, str) else list(item)

    def _checked(self, grammar: Grammar | None) -> Grammar | None:
        if grammar is not None and not isinstance(grammar, Grammar):
            raise RequestError(f"grammar is {quoted(grammar)}: give a sampan.Grammar")
        return grammar

    def scoring(self, texts: object, how: ScoreOptions) -> tuple[Inputs, list[Request]]:
        """What to score."""
        self.driver.require_here()
        name = how.get("adapter")
        adapter = None if name is None else self.adapters.named(name)
        inputs = prompts_of(texts)
        count, start = len(inputs.items), how.get("start", 0)
        starts = list(start) if isinstance(start, Sequence) else [start] * count
        if len(starts) != count:
            raise RequestError(f"{len(starts)} starts for {count} texts: give one, or one each")
        nothing = SamplingParams(max_tokens=0)
        asked = {name: value for name, value in how.items() if name not in ("start", "adapter")}
        hows = [Scoring(start=first, **asked) for first in starts]  # type: ignore[arg-type]
        ids = [self._ids(item) for item in inputs.items]
        pairs = zip(ids, hows, strict=True)
        return inputs, [Request(each, nothing, adapter=adapter, scoring=one) for each, one in pairs]


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
