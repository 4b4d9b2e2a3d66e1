"""The tokens of one answer as the parts that clients get: text, reasoning, tool calls."""

from collections.abc import Iterable
from uuid import uuid4

from sampan.engine.sequence import Event, Refusal
from sampan.server.ask import Ask, CallPart, Part
from sampan.server.errors import ApiError, bad_request
from sampan.server.text import ModelText
from sampan.text.answer import AnswerText, joined
from sampan.text.tools import CallPiece, TextPiece, ToolParser, looseness


class Reader:
    """Reads one answer's events. `finished` once no more count, at a stop text before the engine knows."""

    def __init__(self, text: ModelText, ask: Ask, place: int) -> None:
        self._place = place
        self._tools = _parser(text, ask)
        shown = text.tool_format.shown if self._tools is not None else frozenset[int]()
        self._text = AnswerText(
            text.tokenizer,
            ask.sampling,
            thinking=ask.thinking,
            raw=ask.raw,
            shown=shown,
            continues=ask.continues,
        )
        self._called = False
        self.finished = False

    def take(self, event: Event) -> Part:
        """One more token; a 400 where none can be given as asked, a 500 where the model failed to."""
        if isinstance(event.error, Refusal):
            raise bad_request(event.error, param="grammar")
        if event.token is None and event.error is None and (event.scores or event.finish_reason == "length"):
            self.finished = event.finish_reason is not None
            return Part(self._place, finish=event.finish_reason, scores=event.scores, vector=event.vector)
        if event.token is None:
            raise ApiError(500, event.error or "the request ended without an answer", kind="server_error")
        pieces, reason = self._text.take(event.token.token, event.finish_reason)
        self.finished = reason is not None
        stop = self._text.stop_text
        text, calls = self._read(joined(pieces, "text"), cut=reason == "length" or stop is not None)
        finish = "tool_calls" if reason == "stop" and self._called else reason
        return Part(self._place, text, joined(pieces, "reasoning"), calls, (event.token,), finish, stop)

    def _read(self, text: str, *, cut: bool) -> tuple[str, tuple[CallPart, ...]]:
        """The text outside of calls, and what there is of calls. `cut`: this is the last of it, for another
        reason than that the model was done."""
        if self._tools is None:
            return text, ()
        found = self._tools.push(text) + (self._tools.finish(cut=cut) if self.finished else [])
        calls = tuple(_call(piece) for piece in found if isinstance(piece, CallPiece))
        self._called = self._called or bool(calls)
        return "".join(_texts(found)), calls


def _parser(text: ModelText, ask: Ask) -> ToolParser | None:
    if ask.tools is None or not ask.tools.callable:
        return None
    names = [tool["function"]["name"] for tool in ask.tools.callable]
    forced = ask.tools.choice != "auto"
    return ToolParser(text.tool_format, names, whole=ask.whole, loose=looseness(ask.grammar), forced=forced)


def _call(piece: CallPiece) -> CallPart:
    name = None if piece.name is None else f"call_{uuid4().hex[:24]}"
    return CallPart(piece.index, piece.arguments, name, piece.name)


def _texts(pieces: Iterable[object]) -> list[str]:
    return [piece.text for piece in pieces if isinstance(piece, TextPiece)]
