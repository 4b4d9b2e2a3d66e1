"""Vectors of texts and the order of documents, of models that are made for them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from sampan.core.errors import RequestError, quoted, shortened
from sampan.core.types import SamplingParams, Scoring, TokenScore
from sampan.llm.changes import Adapters
from sampan.llm.driver import Driver, Request
from sampan.llm.inputs import Inputs, prompts_of
from sampan.llm.reading import Read
from sampan.text.rerank import Judging
from sampan.text.tokenizer import Tokenizer
from sampan.weights.purpose import Purpose

_NOTHING = SamplingParams(max_tokens=0)


@dataclass(frozen=True, eq=False)
class Embedding:
    """A text as a point. `vector`: float32 [width]; `tokens`: of the text, with what the model puts around
    it."""

    vector: npt.NDArray[np.float32]
    tokens: int


class EmbedOptions(TypedDict, total=False):
    """See `LLM.embed`."""

    prompt: str | None
    dimensions: int | None
    adapter: str | None


@dataclass(frozen=True)
class Vectors:
    """Makes requests of texts to embed and documents to judge. `name`: the model's, for errors."""

    name: str
    tokenizer: Tokenizer
    purpose: Purpose
    adapters: Adapters
    driver: Driver

    def to_embed(self, texts: object, how: EmbedOptions) -> tuple[Inputs, list[Request]]:
        """What was handed in, and a request for the vector of each."""
        self.driver.require_here()
        check_embeds(self.purpose, self.name)
        inputs, before, encode = (
            prompts_of(texts),
            prompt_named(self.purpose, how.get("prompt")),
            self.tokenizer.encode,
        )
        name = how.get("adapter")
        adapter = None if name is None else self.adapters.named(name)
        ids = [
            encode(before + item, closed=True) if isinstance(item, str) else list(item)
            for item in inputs.items
        ]
        return inputs, [
            Request(each, _NOTHING, adapter=adapter, pooling=self.purpose.pooling) for each in ids
        ]

    def embeddings(
        self, inputs: Inputs, requests: Sequence[Request], found: Sequence[Read], how: EmbedOptions
    ) -> Any:
        """What came of them, in the shape in which they were handed in."""
        pairs, dimensions = zip(requests, found, strict=True), how.get("dimensions")
        vectors = [
            embedding(own.vector, len(request.tokens), self.purpose, dimensions) for request, own in pairs
        ]
        return inputs.shaped(vectors)

    def to_judge(self, query: object, documents: object, instruction: object) -> list[Request]:
        """A request for what the model says of each document."""
        self.driver.require_here()
        check_reranks(self.purpose, self.name)
        if not isinstance(query, str) or not (instruction is None or isinstance(instruction, str)):
            raise RequestError("query and instruction are texts")
        if isinstance(documents, str) or not isinstance(documents, Sequence):
            raise RequestError(f"documents is {quoted(documents)}: give a list of texts")
        if not all(isinstance(document, str) for document in documents):
            raise RequestError("documents are texts")
        judging = Judging(self.tokenizer)
        prompts = [judging.prompt(query, document, instruction) for document in documents]
        return [
            Request([*prompt, judging.yes], _NOTHING, scoring=judging_score(prompt, judging))
            for prompt in prompts
        ]


def judging_score(prompt: Sequence[int], judging: Judging) -> Scoring:
    """Of the answer "yes" behind a prompt, with "no" beside it."""
    return Scoring(start=len(prompt), others=(judging.no,))


def check_embeds(purpose: Purpose, name: str) -> None:
    """`RequestError` for a model that is not made for it."""
    if purpose.pooling is None:
        raise RequestError(f"{shortened(name)} is no embedding model; Qwen3-Embedding is one")


def check_reranks(purpose: Purpose, name: str) -> None:
    """The same."""
    if not purpose.reranks:
        raise RequestError(f"{shortened(name)} is no reranking model; Qwen3-Reranker is one")


def prompt_named(purpose: Purpose, name: str | None) -> str:
    """What goes before a text of this kind."""
    if name is None:
        return ""
    if name not in purpose.prompts:
        known = ", ".join(purpose.prompts) or "none"
        raise RequestError(f"prompt is {quoted(name)}: the model has {known}")
    return purpose.prompts[name]


def embedding(
    vector: Sequence[float], tokens: int, purpose: Purpose, dimensions: int | None = None
) -> Embedding:
    """What a model gave as users want it: its first `dimensions` alone (Matryoshka, arXiv:2205.13147), and of
    length 1 where the model's are."""
    check_dimensions(dimensions, len(vector))
    values = np.array(vector[:dimensions], np.float64)
    if purpose.normalize:
        values /= max(math.sqrt(float(values @ values)), 1e-12)
    return Embedding(values.astype(np.float32), tokens)


def check_dimensions(dimensions: object, width: int) -> None:
    """`RequestError` for more than a model has."""
    whole = isinstance(dimensions, int) and not isinstance(dimensions, bool)
    if dimensions is not None and not (whole and 1 <= dimensions <= width):  # type: ignore[operator]
        raise RequestError(f"dimensions is {quoted(dimensions)}: give a whole number from 1 to {width}")


def relevance(score: TokenScore) -> float:
    """The probability of yes, of yes and no."""
    return 1 / (1 + math.exp(min(score.others[0] - score.logprob, 700.0)))
