"""The tokens of one answer as the parts that clients get: text, reasoning, tool calls."""

from sampan.engine.sequence import Event
from sampan.server.ask import Ask, Part
from sampan.server.errors import ApiError
from sampan.text.reasoning import Piece, ReasoningSplitter
from sampan.text.stream import TextStream
from sampan.text.tokenizer import Tokenizer


class Reader:
    """Reads one answer's events. `finished` once no more count, at a stop text before the engine knows."""

    def __init__(self, tokenizer: Tokenizer, ask: Ask, place: int) -> None:
        self._place = place
        self._text = TextStream(tokenizer, tuple(ask.sampling.stop))
        self._split = None if ask.raw else ReasoningSplitter(starts_inside=ask.thinking)
        self._ends = frozenset() if ask.sampling.ignore_eos else tokenizer.eos_ids
        self.finished = False

    def take(self, event: Event) -> Part:
        """One more token; a 500 where the model failed to give one."""
        if event.token is None:
            raise ApiError(500, event.error or "the request ended without an answer", kind="server_error")
        reason = event.finish_reason
        ended = reason == "stop" and event.token.token in self._ends
        pieces = self._pieces("" if ended else self._text.push(event.token.token))
        if self._text.stopped:
            reason = "stop"
        if reason is not None:
            self.finished = True
            pieces += self._pieces(self._text.finish()) + (self._split.finish() if self._split else [])
        reasoning = "".join(piece.text for piece in pieces if piece.kind == "reasoning")
        text = "".join(piece.text for piece in pieces if piece.kind == "text")
        return Part(self._place, text, reasoning, (), (event.token,), reason, self._text.stop_text)

    def _pieces(self, text: str) -> list[Piece]:
        if self._split is not None:
            return self._split.push(text)
        return [Piece("text", text)] if text else []
