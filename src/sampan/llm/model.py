"""`LLM`: a model in this process, for any number of threads and of asyncio's tasks at once.

However many call, the engine runs their requests together, and what each gets does not depend on the others.
"""

from collections.abc import Callable
from typing import Any, Unpack, overload

from sampan.core.types import Completion, Grammar, Score
from sampan.llm.inputs import Ids, Many, Messages, One, Sampling
from sampan.llm.loaded import LoadedModel
from sampan.llm.prompts import GenerateOptions, Prompts, ScoreOptions, score_of
from sampan.llm.streams import AsyncStream, Stream, acollect, ascores, collect, scores


class LLM(LoadedModel):
    __doc__ = LoadedModel.__doc__

    @property
    def _prompts(self) -> Prompts:
        # Made for each call: `template` and `defaults` may be set.
        name, driver = self.files.name, self._driver
        return Prompts(name, self.tokenizer, self.template, self.defaults, self._adapters, driver)

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

        `template`: what else the model's chat template takes, such as `tools=[…]` or `enable_thinking=False`.
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
        found = scores(self._driver, requests, advance)
        return inputs.shaped([score_of(*each) for each in zip(requests, found, strict=True)])

    @overload
    async def ascore(self, texts: str | Ids, **how: Unpack[ScoreOptions]) -> Score: ...
    @overload
    async def ascore(
        self, texts: list[str] | list[list[int]], **how: Unpack[ScoreOptions]
    ) -> list[Score]: ...
    async def ascore(self, texts: object, **how: Unpack[ScoreOptions]) -> Any:
        """`score` without blocking the event loop."""
        inputs, requests = self._prompts.scoring(texts, how)
        found = await ascores(self._driver, requests)
        return inputs.shaped([score_of(*each) for each in zip(requests, found, strict=True)])
