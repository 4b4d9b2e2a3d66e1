"""The tokens of one request as text, reasoning and, at the end, a completion."""

from dataclasses import dataclass

from sampan.core.errors import RequestError
from sampan.core.types import Call, Completion, Delta, FinishReason, Grammar, SamplingParams, TokenLogprob
from sampan.engine.sequence import Event
from sampan.llm.tools import Offer
from sampan.text.answer import AnswerText, joined
from sampan.text.thinking import CLOSING
from sampan.text.tokenizer import Tokenizer
from sampan.text.tools import CallPiece, TextPiece


@dataclass(frozen=True)
class Prompt:
    """A request on its way to the engine. `thinking`: the prompt has opened a block of reasoning. `grammar`:
    what the answer, behind that block, must look like. `adapter`: the engine's id of the one that answers.
    `closing`: what ends the reasoning where its budget is spent. `continues`: the answer goes on with the
    prompt's text. `tools`: what it may call."""

    ids: list[int]
    sampling: SamplingParams
    thinking: bool = False
    grammar: Grammar | None = None
    adapter: int | None = None
    closing: str = CLOSING
    continues: bool = False
    tools: Offer | None = None


class Answer:
    """Grows event by event. `finished` once no more events count, at a stop text before the engine knows."""

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt) -> None:
        offer = prompt.tools
        self._pieces = AnswerText(
            tokenizer,
            prompt.sampling,
            thinking=prompt.thinking,
            shown=frozenset() if offer is None else offer.format.shown,
            continues=prompt.continues,
        )
        self._tools = None if offer is None else offer.parser(prompt.grammar)
        self._calls: list[tuple[str, list[str]]] = []  # names, and the pieces of their arguments
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tokens: list[TokenLogprob] = []
        self._prompt_tokens = len(prompt.ids)
        self._cached_tokens = self._weights_version = self._adapter = 0
        self.finish_reason: FinishReason | None = None

    @property
    def finished(self) -> bool:
        """Whether the answer is whole."""
        return self.finish_reason is not None

    def take(self, event: Event) -> Delta:
        """One more token; `RequestError` where the model failed to give one."""
        if event.token is None:
            raise RequestError(event.error or "the request ended without an answer")
        pieces, self.finish_reason = self._pieces.take(event.token.token, event.finish_reason)
        text, reasoning = self._read(joined(pieces, "text")), joined(pieces, "reasoning")
        self._text.append(text)
        self._reasoning.append(reasoning)
        self._tokens.append(event.token)
        self._cached_tokens, self._weights_version = event.cached_tokens, event.weights_version
        self._adapter = event.adapter
        return Delta(text, reasoning, event.token, self.finish_reason)

    def _read(self, text: str) -> str:
        """The text outside of calls."""
        if self._tools is None:
            return text
        found = self._tools.push(text)
        if self.finished:
            found += self._tools.finish(
                cut=self.finish_reason == "length" or self._pieces.stop_text is not None
            )
        for piece in found:
            if isinstance(piece, CallPiece):
                if piece.name is not None:
                    self._calls.append((piece.name, []))
                self._calls[-1][1].append(piece.arguments)
        return "".join(piece.text for piece in found if isinstance(piece, TextPiece))

    def completion(self) -> Completion:
        """The answer as far as it got."""
        return Completion(
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            tokens=tuple(chosen.token for chosen in self._tokens),
            logprobs=tuple(self._tokens),
            finish_reason=self.finish_reason or "abort",
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            weights_version=self._weights_version,
            adapter=self._adapter,
            calls=tuple(Call(name, "".join(arguments)) for name, arguments in self._calls),
        )
