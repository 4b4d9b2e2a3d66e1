"""`LLM`: a model in this process, for any number of threads and of asyncio's tasks at once.

However many call, the engine runs their requests together, and what each gets does not depend on the others.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self, Unpack, overload

from sampan.core.types import Completion, Grammar, Score
from sampan.llm.asynchronous import AsyncCalls
from sampan.llm.base import BaseLLM, Ids, Messages, ScoreOptions, score_of
from sampan.llm.inputs import Sampling
from sampan.llm.reading import read
from sampan.llm.streams import Stream, collect
from sampan.llm.vectors import Embedding, EmbedOptions, relevance


class LLM(AsyncCalls):
    __doc__ = BaseLLM.__doc__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @overload
    def generate(
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
    def generate(
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
    def generate(
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
    def generate(
        self,
        prompts: list[str] | list[list[int]],
        sampling: Sampling = None,
        *,
        n: int,
        templated: bool = False,
        grammar: Grammar | None = None,
        adapter: str | None = None,
    ) -> list[list[Completion]]: ...
    def generate(
        self,
        prompts: object,
        sampling: Sampling = None,
        *,
        n: int | None = None,
        templated: bool = False,
        grammar: Grammar | None = None,
        adapter: str | None = None,
    ) -> Any:
        """Continue a text or a list of token ids, or each of a list of these.

        `sampling`: one for all prompts or a list with one for each; the model's own (`defaults`) unless
        given. `n`: samples of each prompt; where a seed is given, sample i takes seed + i. `templated`: the
        texts are rendered conversations. `grammar`: what each answer must look like. `adapter`: the name of
        a loaded one that answers. Returns a `Completion`
        for one prompt, a list for a list, and with `n` a list of `n` in the place of each. Raises
        `RequestError` (`ContextOverflow` for a prompt that is too long) before anything is generated.
        """
        inputs, spread = self._generation(prompts, sampling, n, templated, grammar)
        return inputs.shaped(collect(self._driver, self._grammars, self._adapted(spread, adapter)))

    @overload
    def chat(
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
    def chat(
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
    def chat(
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
    def chat(
        self,
        messages: list[Messages],
        sampling: Sampling = None,
        *,
        n: int,
        grammar: Grammar | None = None,
        adapter: str | None = None,
        **template: Any,
    ) -> list[list[Completion]]: ...
    def chat(
        self,
        messages: object,
        sampling: Sampling = None,
        *,
        n: int | None = None,
        grammar: Grammar | None = None,
        adapter: str | None = None,
        **template: Any,
    ) -> Any:
        """Answer a conversation (a list of `{"role": …, "content": …}`), or each of a list of these.

        `template`: what else the model's chat template takes, such as `tools=[…]` or `enable_thinking=False`.
        Sampling and results are those of `generate`.
        """
        inputs, spread = self._conversation(messages, sampling, n, grammar, template)
        return inputs.shaped(collect(self._driver, self._grammars, self._adapted(spread, adapter)))

    def stream(
        self,
        prompt: str | Ids | Messages,
        sampling: Sampling = None,
        *,
        templated: bool = False,
        grammar: Grammar | None = None,
        adapter: str | None = None,
        **template: Any,
    ) -> Stream:
        """One answer to a prompt or a conversation, as it is made: an iterator of `Delta`, one a token.

        Closing or dropping the iterator ends the answer.
        """
        single = self._single(prompt, sampling, templated, grammar, template)
        return Stream(self._driver, self._grammars, *self._adapted([single], adapter))

    @overload
    def score(self, texts: str | Ids, **how: Unpack[ScoreOptions]) -> Score: ...
    @overload
    def score(self, texts: list[str] | list[list[int]], **how: Unpack[ScoreOptions]) -> list[Score]: ...
    def score(self, texts: object, **how: Unpack[ScoreOptions]) -> Any:
        """Log-probability of every token of a text or a list of ids, or of each of a list of these.

        Texts are scored side by side, beside whatever else runs, and what they begin with in common once.
        `start`: the first token that is scored, for all texts or one each. Asked for, a score also has the
        `ranks` of its tokens (1: the greedy choice), the `entropy` before each in nats, and the `top` best
        alternatives. `temperature`: of the distribution all of this is of, as the sampler would draw from it.
        `adapter`: the name of a loaded one that scores. Raises `RequestError`, `ContextOverflow` for a text
        longer than the context.
        """
        return self.score_telling(texts, how, None)

    def score_telling(self, texts: object, how: ScoreOptions, advance: Callable[[int], None] | None) -> Any:
        """`score`, of which `advance` is told how many more tokens are done."""
        name = how.get("adapter")
        inputs, requests = self._scoring(texts, None if name is None else self._adapter(name), how)
        found = read(self._driver, requests, advance)
        pairs = zip(requests, found, strict=True)
        return inputs.shaped([score_of(request, own.scores) for request, own in pairs])

    @overload
    def embed(self, texts: str | Ids, **how: Unpack[EmbedOptions]) -> Embedding: ...
    @overload
    def embed(self, texts: list[str] | list[list[int]], **how: Unpack[EmbedOptions]) -> list[Embedding]: ...
    def embed(self, texts: object, **how: Unpack[EmbedOptions]) -> Any:
        """A text or a list of ids as a vector, or each of a list of these, of a model made for embeddings.

        Vectors are pooled, and have the length 1, as the model's files say. `prompt`: the name of one of the
        model's prompts (`purpose.prompts`), which goes before each text. `dimensions`: the first of them
        alone. `adapter`: the name of a loaded one. Raises `RequestError` for any other model, and
        `ContextOverflow`.
        """
        inputs, requests = self._embedding(texts, how)
        return self._embeddings(inputs, requests, read(self._driver, requests), how)

    def rerank(self, query: str, documents: Sequence[str], *, instruction: str | None = None) -> list[float]:
        """How relevant each document is to the query, from 0 to 1, of a model made for that: its probability
        of "yes". `instruction`: what relevant means, in the model's own words unless given."""
        requests = self._judging(query, documents, instruction)
        return [relevance(own.scores[0]) for own in read(self._driver, requests)]
