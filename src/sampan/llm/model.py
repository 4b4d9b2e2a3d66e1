"""`LLM`: a model in this process, for any number of threads and of asyncio's tasks at once.

However many call, the engine runs their requests together, and what each gets does not depend on the others.
"""

from collections.abc import Callable, Sequence
from typing import Any, Unpack, overload

from sampan.core.types import Completion, Grammar, Score
from sampan.llm.inputs import Ids, Many, Messages, One, Sampling
from sampan.llm.loaded import LoadedModel
from sampan.llm.prompts import GenerateOptions, Prompts, ScoreOptions, score_of
from sampan.llm.reading import aread, read
from sampan.llm.streams import AsyncStream, Stream, acollect, collect
from sampan.llm.vectors import Embedding, EmbedOptions, Vectors, relevance


class LLM(LoadedModel):
    __doc__ = LoadedModel.__doc__

    literal_messages = False
    """Whether control tokens that are written in messages are plain text, as in the service. With
    transformers, and unless this is set, they are control tokens."""

    @property
    def _prompts(self) -> Prompts:
        # Made for each call: `template` and `defaults` may be set.
        name, driver = self.files.name, self._driver
        return Prompts(
            name,
            self.tokenizer,
            self.template,
            self.defaults,
            self._adapters,
            driver,
            self._closing,
            self.literal_messages,
        )

    @property
    def _vectors(self) -> Vectors:
        return Vectors(self.files.name, self.tokenizer, self.purpose, self._adapters, self._driver)

    def prompt(self, messages: Messages, **template: Any) -> str:
        """The conversation rendered by the model's template, up to where the answer starts."""
        return self._prompts.rendered(messages, template)

    def encode(self, text: str, *, templated: bool = False) -> list[int]:
        """Token ids; a `templated` text, such as `prompt` gives, brings its own special tokens."""
        return self.tokenizer.encode(text, add_bos=not templated)

    @overload
    def generate(
        self, prompts: One, sampling: Sampling = None, *, n: None = None, **options: Unpack[GenerateOptions]
    ) -> Completion: ...
    @overload
    def generate(
        self, prompts: One, sampling: Sampling = None, *, n: int, **options: Unpack[GenerateOptions]
    ) -> list[Completion]: ...
    @overload
    def generate(
        self, prompts: Many, sampling: Sampling = None, *, n: None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion]: ...
    @overload
    def generate(
        self, prompts: Many, sampling: Sampling = None, *, n: int, **options: Unpack[GenerateOptions]
    ) -> list[list[Completion]]: ...
    def generate(
        self,
        prompts: object,
        sampling: Sampling = None,
        *,
        n: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Any:
        """Continue a text or a list of token ids, or each of a list of these.

        `sampling`: one for all prompts or a list with one for each; the model's own (`defaults`) unless
        given. `n`: samples of each prompt; where a seed is given, sample i takes seed + i. `templated=True`:
        the texts are rendered conversations. `grammar`: what each answer must look like. `adapter`: the name
        of a loaded one that answers. Returns a `Completion` for one prompt, a list for a list, and with `n` a
        list of `n` in the place of each. Raises `RequestError` (`ContextOverflow` for a prompt that is too
        long) before anything is generated.
        """
        inputs, asked = self._prompts.generation(prompts, sampling, n, **options)
        return inputs.shaped(collect(self._driver, self._grammars, asked))

    @overload
    async def agenerate(
        self, prompts: One, sampling: Sampling = None, *, n: None = None, **options: Unpack[GenerateOptions]
    ) -> Completion: ...
    @overload
    async def agenerate(
        self, prompts: One, sampling: Sampling = None, *, n: int, **options: Unpack[GenerateOptions]
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self, prompts: Many, sampling: Sampling = None, *, n: None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self, prompts: Many, sampling: Sampling = None, *, n: int, **options: Unpack[GenerateOptions]
    ) -> list[list[Completion]]: ...
    async def agenerate(
        self,
        prompts: object,
        sampling: Sampling = None,
        *,
        n: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Any:
        """`generate` without blocking the event loop. Tasks that wait at the same time are answered side by
        side; a cancelled task's requests are gone by the next step."""
        inputs, asked = self._prompts.generation(prompts, sampling, n, **options)
        return inputs.shaped(await acollect(self._driver, self._grammars, asked))

    @overload
    def chat(
        self, messages: Messages, sampling: Sampling = None, *, n: None = None,
        grammar: Grammar | None = None, adapter: str | None = None, **template: Any,
    ) -> Completion: ...  # fmt: skip
    @overload
    def chat(
        self, messages: Messages, sampling: Sampling = None, *, n: int,
        grammar: Grammar | None = None, adapter: str | None = None, **template: Any,
    ) -> list[Completion]: ...  # fmt: skip
    @overload
    def chat(
        self, messages: list[Messages], sampling: Sampling = None, *, n: None = None,
        grammar: Grammar | None = None, adapter: str | None = None, **template: Any,
    ) -> list[Completion]: ...  # fmt: skip
    @overload
    def chat(
        self, messages: list[Messages], sampling: Sampling = None, *, n: int,
        grammar: Grammar | None = None, adapter: str | None = None, **template: Any,
    ) -> list[list[Completion]]: ...  # fmt: skip
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

        `template`: what else the model's chat template takes, such as `enable_thinking=False`. `tools=[…]`:
        functions that the model may call (`Completion.calls`), whether its template knows tools or not; then
        `grammar` is what an answer in words must look like.
        Sampling and results are those of `generate`.
        """
        inputs, asked = self._prompts.conversation(messages, sampling, n, grammar, adapter, template)
        return inputs.shaped(collect(self._driver, self._grammars, asked))

    @overload
    async def achat(
        self, messages: Messages, sampling: Sampling = None, *, n: None = None,
        grammar: Grammar | None = None, adapter: str | None = None, **template: Any,
    ) -> Completion: ...  # fmt: skip
    @overload
    async def achat(
        self, messages: Messages, sampling: Sampling = None, *, n: int,
        grammar: Grammar | None = None, adapter: str | None = None, **template: Any,
    ) -> list[Completion]: ...  # fmt: skip
    @overload
    async def achat(
        self, messages: list[Messages], sampling: Sampling = None, *, n: None = None,
        grammar: Grammar | None = None, adapter: str | None = None, **template: Any,
    ) -> list[Completion]: ...  # fmt: skip
    @overload
    async def achat(
        self, messages: list[Messages], sampling: Sampling = None, *, n: int,
        grammar: Grammar | None = None, adapter: str | None = None, **template: Any,
    ) -> list[list[Completion]]: ...  # fmt: skip
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
        """`chat` without blocking the event loop."""
        inputs, asked = self._prompts.conversation(messages, sampling, n, grammar, adapter, template)
        return inputs.shaped(await acollect(self._driver, self._grammars, asked))

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
        asked = self._prompts.single(prompt, sampling, templated, grammar, adapter, template)
        return Stream(self._driver, self._grammars, asked)

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
        asked = self._prompts.single(prompt, sampling, templated, grammar, adapter, template)
        return AsyncStream(self._driver, self._grammars, asked)

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
        inputs, requests = self._prompts.scoring(texts, how)
        pairs = zip(requests, read(self._driver, requests, advance), strict=True)
        return inputs.shaped([score_of(request, own.scores) for request, own in pairs])

    @overload
    async def ascore(self, texts: str | Ids, **how: Unpack[ScoreOptions]) -> Score: ...
    @overload
    async def ascore(
        self, texts: list[str] | list[list[int]], **how: Unpack[ScoreOptions]
    ) -> list[Score]: ...
    async def ascore(self, texts: object, **how: Unpack[ScoreOptions]) -> Any:
        """`score` without blocking the event loop."""
        inputs, requests = self._prompts.scoring(texts, how)
        pairs = zip(requests, await aread(self._driver, requests), strict=True)
        return inputs.shaped([score_of(request, own.scores) for request, own in pairs])

    @overload
    def embed(self, texts: One, **how: Unpack[EmbedOptions]) -> Embedding: ...
    @overload
    def embed(self, texts: Many, **how: Unpack[EmbedOptions]) -> list[Embedding]: ...
    def embed(self, texts: object, **how: Unpack[EmbedOptions]) -> Any:
        """A text or a list of ids as a vector, or each of a list of these, of a model made for embeddings.

        Vectors are pooled, and have the length 1, as the model's files say. `prompt`: the name of one of the
        model's prompts (`purpose.prompts`), which goes before each text. `dimensions`: the first of them
        alone. `adapter`: the name of a loaded one. Raises `RequestError` for any other model, and
        `ContextOverflow`.
        """
        inputs, requests = self._vectors.to_embed(texts, how)
        return self._vectors.embeddings(inputs, requests, read(self._driver, requests), how)

    @overload
    async def aembed(self, texts: One, **how: Unpack[EmbedOptions]) -> Embedding: ...
    @overload
    async def aembed(self, texts: Many, **how: Unpack[EmbedOptions]) -> list[Embedding]: ...
    async def aembed(self, texts: object, **how: Unpack[EmbedOptions]) -> Any:
        """`embed` without blocking the event loop."""
        inputs, requests = self._vectors.to_embed(texts, how)
        return self._vectors.embeddings(inputs, requests, await aread(self._driver, requests), how)

    def rerank(self, query: str, documents: Sequence[str], *, instruction: str | None = None) -> list[float]:
        """How relevant each document is to the query, from 0 to 1, of a model made for that: its probability
        of "yes". `instruction`: what relevant means, in the model's own words unless given."""
        requests = self._vectors.to_judge(query, documents, instruction)
        return [relevance(own.scores[0]) for own in read(self._driver, requests)]

    async def arerank(
        self, query: str, documents: Sequence[str], *, instruction: str | None = None
    ) -> list[float]:
        """`rerank` without blocking the event loop."""
        requests = self._vectors.to_judge(query, documents, instruction)
        return [relevance(own.scores[0]) for own in await aread(self._driver, requests)]
