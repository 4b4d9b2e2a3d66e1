"""Who is asked: a model in this process (`local.py`), or one behind a URL (`endpoint.py`)."""

from dataclasses import dataclass
from typing import Any, Protocol

from sampan.core.types import SamplingParams
from sampan.evals.benchmark import Options

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Answered:
    """`seconds`: from the question to the end of the answer. `kept`: it was computed before."""

    text: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int
    tokens: int
    seconds: float
    kept: bool = False


@dataclass(frozen=True)
class Ranked:
    """Log-probabilities of continuations of one context, natural, and their lengths in bytes."""

    logprobs: tuple[float, ...]
    lengths: tuple[int, ...]
    tokens: int
    seconds: float

    @property
    def best(self) -> int:
        """Place of the likeliest."""
        return max(range(len(self.logprobs)), key=self.logprobs.__getitem__)

    @property
    def best_normalised(self) -> int:
        """Place of the likeliest by the byte, as lm-eval's acc_norm has it."""
        return max(range(len(self.logprobs)), key=lambda at: self.logprobs[at] / max(1, self.lengths[at]))


class Asker(Protocol):
    """`concurrency`: questions that are worth asking at once. `ranks`: whether it can tell
    log-probabilities of given texts."""

    concurrency: int
    ranks: bool

    async def ask(self, messages: Messages, sampling: SamplingParams) -> Answered:
        """Raises `SampanError` for a question that gets no answer."""

    async def rank(self, options: Options) -> Ranked: ...

    async def close(self) -> None:
        """What asking has opened, inside of the event loop that asked."""
