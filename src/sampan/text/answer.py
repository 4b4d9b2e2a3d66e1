"""The tokens of one answer as pieces of text and reasoning, up to its stop text or its end."""

from sampan.core.types import FinishReason, SamplingParams
from sampan.text.reasoning import Kind, Piece, ReasoningSplitter
from sampan.text.stream import TextStream
from sampan.text.tokenizer import Tokenizer


class AnswerText:
    """`thinking`: the prompt has opened a block of reasoning. `raw`: tags of reasoning are text. `shown` and
    `continues`: as `TextStream` takes them."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        sampling: SamplingParams,
        *,
        thinking: bool = False,
        raw: bool = False,
        shown: frozenset[int] = frozenset(),
        continues: bool = False,
    ) -> None:
        self._stream = TextStream(tokenizer, tuple(sampling.stop), shown=shown, continues=continues)
        self._split = None if raw else ReasoningSplitter(starts_inside=thinking)
        self._ends = frozenset() if sampling.ignore_eos else tokenizer.eos_ids

    @property
    def stop_text(self) -> str | None:
        """The stop string that ended it."""
        return self._stream.stop_text

    def take(self, token: int, reason: FinishReason | None) -> tuple[list[Piece], FinishReason | None]:
        """One more token, and why it is the last by the engine, or None; the pieces that it made certain, and
        why it is the last: at a stop text, that is before the engine knows."""
        ended = reason == "stop" and token in self._ends
        pieces = self._pieces("" if ended else self._stream.push(token))
        if self._stream.stopped:
            reason = "stop"
        if reason is not None:
            pieces += self._pieces(self._stream.finish()) + (self._split.finish() if self._split else [])
        return pieces, reason

    def _pieces(self, text: str) -> list[Piece]:
        if self._split is not None:
            return self._split.push(text)
        return [Piece("text", text)] if text else []


def joined(pieces: list[Piece], kind: Kind) -> str:
    """The text of all pieces of one kind."""
    return "".join(piece.text for piece in pieces if piece.kind == kind)
