"""A model in this process, asked."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sampan.core.types import Completion, SamplingParams
from sampan.evals.asker import Answered, Messages, Ranked
from sampan.evals.benchmark import Options
from sampan.evals.kept import KeptAnswers
from sampan.llm.model import LLM


class LocalModel:
    """`llm`, with one of its adapters or without. `identity`: of the weights that answer; answers that
    `kept` has of them are not computed again."""

    ranks = True

    def __init__(
        self,
        llm: LLM,
        *,
        identity: str,
        adapter: str | None = None,
        kept: KeptAnswers | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        self._llm, self._adapter, self._kept, self._identity = llm, adapter, kept, identity
        self._template = dict(template or {})
        # Twice what runs side by side: the next prompt is there when an answer ends.
        self.concurrency = 2 * llm.engine.scheduler.max_sequences

    async def ask(self, messages: Messages, sampling: SamplingParams) -> Answered:
        """See `Asker`. A model without a chat form continues the last message."""
        started = time.perf_counter()
        ids = self._prompt(messages)
        # A full context cuts an answer, and which one there is may depend on the memory that is free.
        own = f"{self._identity} {self._llm.context}"
        key = None if self._kept is None else self._kept.key(own, ids, sampling)
        if self._kept is not None and key is not None and (found := self._kept.get(key)) is not None:
            return found
        answer = await self._llm.agenerate(ids, sampling, adapter=self._adapter)
        answered = _answered(answer, time.perf_counter() - started)
        if self._kept is not None and key is not None:
            self._kept.put(key, answered)
        return answered

    async def rank(self, options: Options) -> Ranked:
        """See `Asker`: of what the tokens of a continuation say behind the context's, as lm-eval divides
        them: a space at the context's end goes to the continuation."""
        started = time.perf_counter()
        context = options.context.rstrip()
        space = options.context[len(context) :]
        first = len(self._llm.encode(context))
        texts = [self._llm.encode(context + space + each) for each in options.continuations]
        starts = [min(first, len(ids) - 1) for ids in texts]
        scores = await self._llm.ascore(texts, start=starts, adapter=self._adapter)
        found = tuple(
            sum(value for value in score.logprobs[start:] if value is not None)
            for score, start in zip(scores, starts, strict=True)
        )
        lengths = tuple(len(each.encode()) for each in options.continuations)
        return Ranked(found, lengths, sum(map(len, texts)), time.perf_counter() - started)

    async def close(self) -> None:
        """Nothing: the model is its owner's."""

    def _prompt(self, messages: Messages) -> Sequence[int]:
        if self._llm.template is None:
            return self._llm.encode(str(messages[-1]["content"]))
        return self._llm.encode(self._llm.prompt(messages, **self._template), templated=True)


def _answered(answer: Completion, seconds: float) -> Answered:
    return Answered(
        answer.text,
        answer.reasoning,
        answer.finish_reason,
        answer.prompt_tokens,
        answer.completion_tokens,
        seconds,
    )
