"""A model opened for a command, and an answer shown as it is made."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sampan.cli.progress import TerminalProgress
from sampan.cli.terminal import dim, is_terminal, printable
from sampan.core.types import Delta, FinishReason, SamplingParams, TokenLogprob

if TYPE_CHECKING:
    from sampan.llm import LLM
    from sampan.llm.streams import Stream


def open_model(model: str, *, max_sequences: int = 1, **options: Any) -> "LLM":
    """MODEL, fetched if need be and loaded; `options` are those of `LLM`."""
    from sampan.llm import LLM

    return LLM(model, max_sequences=max_sequences, progress=TerminalProgress(), **options)


def given_over(defaults: SamplingParams, chosen: Mapping[str, Any]) -> SamplingParams:
    """The model's own sampling, but for what was given."""
    return replace(defaults, **{name: value for name, value in chosen.items() if value is not None})


@dataclass
class Answer:
    """An answer as far as it got. Times are seconds of `time.perf_counter`; `first`: of the first token."""

    prompt_tokens: int
    text: str = ""
    reasoning: str = ""
    finish_reason: FinishReason = "abort"
    tokens: list[TokenLogprob] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float | None = None

    def add(self, delta: Delta) -> None:
        """Take one token's part."""
        self.last = time.perf_counter()
        if self.first is None:
            self.first = self.last
        self.text += delta.text
        self.reasoning += delta.reasoning
        if delta.token is not None:
            self.tokens.append(delta.token)
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason

    @property
    def ttft_s(self) -> float | None:
        """Seconds from the request to its first token; None without one."""
        return None if self.first is None else self.first - self.started

    @property
    def decode_tps(self) -> float | None:
        """Tokens a second after the first one; None when there is no second."""
        if self.first is None or self.last is None or self.last <= self.first:
            return None
        return (len(self.tokens) - 1) / (self.last - self.first)


def read_answer(stream: "Stream", show: Callable[[Delta], None]) -> Answer:
    """Read one answer and `show` it as it grows. Ctrl-C ends it: what there is stays, as "abort"."""
    answer = Answer(stream.prompt_tokens)
    try:
        with stream:
            for delta in stream:
                answer.add(delta)
                show(delta)
    except KeyboardInterrupt:
        answer.finish_reason = "abort"
    return answer


class Screen:
    """Writes answers to stdout: the text to a pipe as it is, to a terminal with the reasoning, dimmed."""

    def __init__(self) -> None:
        self._terminal = is_terminal(sys.stdout)
        self._line_open = False

    def show(self, delta: Delta) -> None:
        """One part, at once."""
        if self._terminal and delta.reasoning:
            self._write(dim(printable(delta.reasoning)), delta.reasoning)
        if delta.text:
            self._write(printable(delta.text) if self._terminal else delta.text, delta.text)

    def end(self) -> None:
        """Finish the line."""
        if self._line_open:
            print(flush=True)
        self._line_open = False

    def _write(self, shown: str, text: str) -> None:
        print(shown, end="", flush=True)
        self._line_open = not text.endswith("\n")


def statistics(answer: Answer, load_seconds: float | None = None) -> str:
    """One line about an answer, for people."""
    parts = [f"{answer.prompt_tokens} prompt tokens", f"{len(answer.tokens)} tokens ({answer.finish_reason})"]
    if answer.decode_tps is not None:
        parts.append(f"{answer.decode_tps:.1f} tokens/s")
    if answer.ttft_s is not None:
        parts.append(f"first after {answer.ttft_s:.2f} s")
    if load_seconds is not None:
        parts.append(f"loaded in {load_seconds:.2f} s")
    return ", ".join(parts)
