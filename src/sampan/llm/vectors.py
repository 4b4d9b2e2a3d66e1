"""Vectors of texts and the order of documents, of models that are made for them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from sampan.core.errors import RequestError, quoted, shortened
from sampan.core.types import SamplingParams, Scoring, TokenScore
from sampan.llm.driver import Request
from sampan.llm.inputs import Inputs, prompts_of
from sampan.text.rerank import Judging
from sampan.text.tokenizer import Tokenizer
from sampan.weights.purpose import Purpose

NOTHING = SamplingParams(max_tokens=0)
"""No answer."""


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


def to_embed(
    texts: object, how: EmbedOptions, adapter: int | None, tokenizer: Tokenizer, purpose: Purpose, name: str
) -> tuple[Inputs, list[Request]]:
    """Requests for the vectors of these texts."""
    check_embeds(purpose, name)
    inputs = prompts_of(texts)
    before = prompt_named(purpose, how.get("prompt"))
    ids = [
        tokenizer.encode(before + item, closed=True) if isinstance(item, str) else list(item)
        for item in inputs.items
    ]
    return inputs, [Request(each, NOTHING, adapter=adapter, pooling=purpose.pooling) for each in ids]


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


def to_judge(
    query: object, documents: object, instruction: object, tokenizer: Tokenizer, purpose: Purpose, name: str
) -> list[Request]:
    """Requests for what a model says of each document."""
    check_reranks(purpose, name)
    if not isinstance(query, str) or not (instruction is None or isinstance(instruction, str)):
        raise RequestError("query and instruction are texts")
    listed: Any = documents
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise RequestError(f"documents is {quoted(documents)}: give a list of texts")
    if not all(isinstance(document, str) for document in listed):
        raise RequestError("documents are texts")
    judging = Judging(tokenizer)
    prompts = [judging.prompt(query, document, instruction) for document in listed]
    return [judged(prompt, judging) for prompt in prompts]


def judged(prompt: list[int], judging: Judging) -> Request:
    """A request for what a model says behind a prompt."""
    scoring = Scoring(start=len(prompt), others=(judging.no,))
    return Request([*prompt, judging.yes], NOTHING, scoring=scoring)


def relevance(score: TokenScore) -> float:
    """The probability of yes, of yes and no."""
    return 1 / (1 + math.exp(min(score.others[0] - score.logprob, 700.0)))
