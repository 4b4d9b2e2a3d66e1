"""The tokens of one request as text, reasoning and, at the end, a completion."""

from collections.abc import Iterable
from dataclasses import dataclass

from sampan.core.errors import RequestError
from sampan.core.types import Completion, Delta, FinishReason, Grammar, SamplingParams, TokenLogprob
from sampan.engine.sequence import Event
from sampan.text.reasoning import Kind, Piece, ReasoningSplitter
from sampan.text.stream import TextStream
from sampan.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """A request on its way to the engine. `thinking`: the prompt has opened a block of reasoning. `grammar`:
    what the answer, behind that block, must look like. `adapter`: the engine's id of the one that answers."""

    ids: list[int]
    sampling: SamplingParams
    thinking: bool = False
    grammar: Grammar | None = None
    adapter: int | None = None


class Answer:
    """Grows event by event. `finished` once no more events count, at a stop text before the engine knows."""

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt) -> None:
        self._text = TextStream(tokenizer, tuple(prompt.sampling.stop))
        self._split = ReasoningSplitter(starts_inside=prompt.thinking)
        self._ends = frozenset() if prompt.sampling.ignore_eos else tokenizer.eos_ids
        self._shown: dict[Kind, list[str]] = {"text": [], "reasoning": []}
        self._tokens: list[TokenLogprob] = []
        self._prompt_tokens = len(prompt.ids)
        self._cached_tokens = self._weights_version = 0
        self.finish_reason: FinishReason | None = None

    @property
    def finished(self) -> bool:
        """Whether the answer is whole."""
        return self.finish_reason is not None

    def take(self, event: Event) -> Delta:
        """One more token; `RequestError` where the model failed to give one."""
        if event.token is None:
            raise RequestError(event.error or "the request ended without an answer")
        reason = event.finish_reason
        ended = reason == "stop" and event.token.token in self._ends
        pieces = list(self._split.push("" if ended else self._text.push(event.token.token)))
        if self._text.stopped:
            reason = "stop"
        if reason is not None:
            pieces += [*self._split.push(self._text.finish()), *self._split.finish()]
        self._tokens.append(event.token)
        self._cached_tokens, self._weights_version = event.cached_tokens, event.weights_version
        self.finish_reason = reason
        return Delta(self._show("text", pieces), self._show("reasoning", pieces), event.token, reason)

    def completion(self) -> Completion:
        """The answer as far as it got."""
        return Completion(
            text="".join(self._shown["text"]),
            reasoning="".join(self._shown["reasoning"]),
            tokens=tuple(chosen.token for chosen in self._tokens),
            logprobs=tuple(self._tokens),
            finish_reason=self.finish_reason or "abort",
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            weights_version=self._weights_version,
        )

    def _show(self, kind: Kind, pieces: Iterable[Piece]) -> str:
        text = "".join(piece.text for piece in pieces if piece.kind == kind)
        if text:
            self._shown[kind].append(text)
        return text
