"""A model opened for a command, and an answer shown as it is made."""

import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sampan.catalog.catalog import resolve
from sampan.cli.progress import TerminalProgress
from sampan.cli.terminal import dim, is_terminal, printable
from sampan.core.errors import UsageError
from sampan.core.settings import Settings
from sampan.core.types import FinishReason, SamplingParams, TokenLogprob

if TYPE_CHECKING:
    from sampan.llm import LLM, Delta


def open_model(
    model: str,
    *,
    threads: int | None = None,
    context: int | None = None,
    max_sequences: int = 1,
    cache_tokens: int | None = None,
) -> "LLM":
    """MODEL, fetched if need be and loaded; `UsageError` when it has not this much `context`."""
    settings = Settings.from_env()
    files = resolve(model, settings, TerminalProgress())
    from sampan.llm import LLM

    llm = LLM(
        files,
        settings=settings,
        threads=threads,
        context=context,
        max_sequences=max_sequences,
        cache_tokens=cache_tokens,
    )
    if context is not None and llm.context < context:
        raise UsageError(f"a context of {context} tokens was asked for: {model} holds {llm.context}")
    return llm


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

    def add(self, delta: "Delta") -> None:
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


def stream_answer(
    llm: "LLM", prompt: str, sampling: SamplingParams, *, templated: bool, show: Callable[["Delta"], None]
) -> Answer:
    """Make one answer and `show` it as it grows. Ctrl-C ends it: what there is stays, as "abort"."""
    answer = Answer(len(llm.encode(prompt, templated=templated)))
    try:
        with closing(llm.stream(prompt, sampling, templated=templated)) as deltas:
            for delta in deltas:
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

    def show(self, delta: "Delta") -> None:
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
