"""The calls of `LLM` for asyncio: each waits without blocking the event loop.

Tasks that wait at the same time are answered side by side. A cancelled task's requests are gone by the next
step.
"""

from collections.abc import Sequence
from typing import Any, Self, Unpack, overload

from sampan.core.types import Completion, Grammar, Score
from sampan.llm.base import Ids, Messages, ScoreOptions, score_of
from sampan.llm.changes import Changes
from sampan.llm.inputs import Sampling
from sampan.llm.reading import aread
from sampan.llm.streams import AsyncStream, acollect
from sampan.llm.vectors import Embedding, EmbedOptions, relevance


class AsyncCalls(Changes):
    """See `LLM`: `agenerate` is `generate`, and so on."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """`close`, which waits for the step that is running."""
        import asyncio

        await asyncio.to_thread(self.close)

    @overload
    async def agenerate(
        self,
        prompts: str | Ids,
        sampling: Sampling = None,
        *,
        n: None = None,
        templated: bool = False,
        grammar: Grammar | None = None,
        adapter: str | None = None,
    ) -> Completion: ...
    @overload
    async def agenerate(
        self,
        prompts: str | Ids,
        sampling: Sampling = None,
        *,
        n: int,
        templated: bool = False,
        grammar: Grammar | None = None,
        adapter: str | None = None,
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self,
        prompts: list[str] | list[list[int]],
        sampling: Sampling = None,
        *,
        n: None = None,
        templated: bool = False,
        grammar: Grammar | None = None,
        adapter: str | None = None,
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self,
        prompts: list[str] | list[list[int]],
        sampling: Sampling = None,
        *,
        n: int,
        templated: bool = False,
        grammar: Grammar | None = None,
        adapter: str | None = None,
    ) -> list[list[Completion]]: ...
    async def agenerate(
        self,
        prompts: object,
        sampling: Sampling = None,
        *,
        n: int | None = None,
        templated: bool = False,
        grammar: Grammar | None = None,
        adapter: str | None = None,
    ) -> Any:
        """Continue prompts."""
        inputs, spread = self._generation(prompts, sampling, n, templated, grammar)
        return inputs.shaped(await acollect(self._driver, self._grammars, self._adapted(spread, adapter)))

    @overload
    async def achat(
        self,
        messages: Messages,
        sampling: Sampling = None,
        *,
        n: None = None,
        grammar: Grammar | None = None,
        adapter: str | None = None,
        **template: Any,
    ) -> Completion: ...
    @overload
    async def achat(
        self,
        messages: Messages,
        sampling: Sampling = None,
        *,
        n: int,
        grammar: Grammar | None = None,
        adapter: str | None = None,
        **template: Any,
    ) -> list[Completion]: ...
    @overload
    async def achat(
        self,
        messages: list[Messages],
        sampling: Sampling = None,
        *,
        n: None = None,
        grammar: Grammar | None = None,
        adapter: str | None = None,
        **template: Any,
    ) -> list[Completion]: ...
    @overload
    async def achat(
        self,
        messages: list[Messages],
        sampling: Sampling = None,
        *,
        n: int,
        grammar: Grammar | None = None,
        adapter: str | None = None,
        **template: Any,
    ) -> list[list[Completion]]: ...
    async def achat(
        self,
        messages: object,
        sampling: Sampling = None,
        *,
        n: int | None = None,
        grammar: Grammar | None = None,
        adapter: str | None = None,
        **template: Any,
    ) -> Any:
        """Answer conversations."""
        inputs, spread = self._conversation(messages, sampling, n, grammar, template)
        return inputs.shaped(await acollect(self._driver, self._grammars, self._adapted(spread, adapter)))

    def astream(
        self,
        prompt: str | Ids | Messages,
        sampling: Sampling = None,
        *,
        templated: bool = False,
        grammar: Grammar | None = None,
        adapter: str | None = None,
        **template: Any,
    ) -> AsyncStream:
        """One answer as it is made, for `async for`; call it inside the event loop."""
        single = self._single(prompt, sampling, templated, grammar, template)
        return AsyncStream(self._driver, self._grammars, *self._adapted([single], adapter))

    @overload
    async def ascore(self, texts: str | Ids, **how: Unpack[ScoreOptions]) -> Score: ...
    @overload
    async def ascore(
        self, texts: list[str] | list[list[int]], **how: Unpack[ScoreOptions]
    ) -> list[Score]: ...
    async def ascore(self, texts: object, **how: Unpack[ScoreOptions]) -> Any:
        """Log-probabilities of given tokens or text."""
        name = how.get("adapter")
        inputs, requests = self._scoring(texts, None if name is None else self._adapter(name), how)
        pairs = zip(requests, await aread(self._driver, requests), strict=True)
        return inputs.shaped([score_of(request, own.scores) for request, own in pairs])

    @overload
    async def aembed(self, texts: str | Ids, **how: Unpack[EmbedOptions]) -> Embedding: ...
    @overload
    async def aembed(
        self, texts: list[str] | list[list[int]], **how: Unpack[EmbedOptions]
    ) -> list[Embedding]: ...
    async def aembed(self, texts: object, **how: Unpack[EmbedOptions]) -> Any:
        """Vectors of texts."""
        inputs, requests = self._embedding(texts, how)
        return self._embeddings(inputs, requests, await aread(self._driver, requests), how)

    async def arerank(
        self, query: str, documents: Sequence[str], *, instruction: str | None = None
    ) -> list[float]:
        """How relevant documents are."""
        requests = self._judging(query, documents, instruction)
        return [relevance(own.scores[0]) for own in await aread(self._driver, requests)]
