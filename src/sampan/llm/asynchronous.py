"""The calls of `LLM` for asyncio: each waits without blocking the event loop.

Tasks that wait at the same time are answered side by side. A cancelled task's requests are gone by the next
step.
"""

from typing import Any, Self, overload

from sampan.core.types import Completion, Score
from sampan.llm.base import BaseLLM, Ids, Messages, score_of
from sampan.llm.inputs import Sampling
from sampan.llm.streams import AsyncStream, acollect, ascores


class AsyncCalls(BaseLLM):
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
        self, prompts: str | Ids, sampling: Sampling = None, *, n: None = None, templated: bool = False
    ) -> Completion: ...
    @overload
    async def agenerate(
        self, prompts: str | Ids, sampling: Sampling = None, *, n: int, templated: bool = False
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self,
        prompts: list[str] | list[list[int]],
        sampling: Sampling = None,
        *,
        n: None = None,
        templated: bool = False,
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self,
        prompts: list[str] | list[list[int]],
        sampling: Sampling = None,
        *,
        n: int,
        templated: bool = False,
    ) -> list[list[Completion]]: ...
    async def agenerate(
        self, prompts: object, sampling: Sampling = None, *, n: int | None = None, templated: bool = False
    ) -> Any:
        """Continue prompts."""
        inputs, spread = self._generation(prompts, sampling, n, templated)
        return inputs.shaped(await acollect(self._driver, self.tokenizer, spread))

    @overload
    async def achat(
        self, messages: Messages, sampling: Sampling = None, *, n: None = None, **template: Any
    ) -> Completion: ...
    @overload
    async def achat(
        self, messages: Messages, sampling: Sampling = None, *, n: int, **template: Any
    ) -> list[Completion]: ...
    @overload
    async def achat(
        self, messages: list[Messages], sampling: Sampling = None, *, n: None = None, **template: Any
    ) -> list[Completion]: ...
    @overload
    async def achat(
        self, messages: list[Messages], sampling: Sampling = None, *, n: int, **template: Any
    ) -> list[list[Completion]]: ...
    async def achat(
        self, messages: object, sampling: Sampling = None, *, n: int | None = None, **template: Any
    ) -> Any:
        """Answer conversations."""
        inputs, spread = self._conversation(messages, sampling, n, template)
        return inputs.shaped(await acollect(self._driver, self.tokenizer, spread))

    def astream(
        self,
        prompt: str | Ids | Messages,
        sampling: Sampling = None,
        *,
        templated: bool = False,
        **template: Any,
    ) -> AsyncStream:
        """One answer as it is made, for `async for`; call it inside the event loop."""
        return AsyncStream(self._driver, self.tokenizer, self._single(prompt, sampling, templated, template))

    @overload
    async def ascore(self, texts: str | Ids) -> Score: ...
    @overload
    async def ascore(self, texts: list[str] | list[list[int]]) -> list[Score]: ...
    async def ascore(self, texts: object) -> Any:
        """Log-probabilities of given tokens or text."""
        inputs, ids = self._scoring(texts)
        return inputs.shaped([score_of(each, await ascores(self._driver, each)) for each in ids])
