"""Follows each request through the service: its metrics, share of the machine, usage and log line."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sampan.server.ask import Ask, Caller, Part, Usage
from sampan.server.errors import ApiError
from sampan.server.storage.ledger import Entry
from sampan.server.watch import logs
from sampan.server.watch.energy import Meter, Rapl
from sampan.server.watch.metrics import Metrics
from sampan.server.watch.state import State, Watched

PROBE = Caller(name="probe")
"""Who asks for `/ready`; counts as nobody's use."""

_prompts = logging.getLogger("sampan.prompts")


class Observer:
    """What a service knows of its own work. `ledger`: where usage is kept."""

    def __init__(self, service: Watched) -> None:
        self.metrics = Metrics(service.settings.model)
        self.meter = Meter(Rapl.find())
        self.metrics.registry.register(State(self.metrics, self.meter, service))
        self.ledger = service.admission.ledger
        self.started = time.monotonic()
        self.with_text = service.settings.log_prompts
        self.tokenizer = service.text.tokenizer

    def begin(self, asks: Sequence[Ask], caller: Caller, usage: Usage) -> "Trace":
        """A request that has come. `usage` is read at its end."""
        return Trace(self, asks, caller, usage) if caller is not PROBE else _Unseen(self, asks, caller, usage)


@dataclass(slots=True)
class _Answer:
    """`prompt_tokens`: of the ask, for the first of its answers. Moments are on the monotonic clock."""

    ask: Ask
    prompt_tokens: int
    admitted: float | None = None
    mark: float | None = None
    first: float | None = None
    last: float = 0.0
    tokens: int = 0
    finish: str | None = None


class Trace:
    """One request: each of its answers is admitted, gives parts and finishes; then it ends."""

    def __init__(self, observer: Observer, asks: Sequence[Ask], caller: Caller, usage: Usage) -> None:
        self._observer = observer
        self._metrics = observer.metrics
        self._asks = asks
        self._caller = caller
        self._usage = usage
        self._answers = [
            _Answer(ask, 0 if sample else len(ask.ids)) for ask in asks for sample in range(ask.n)
        ]
        record = logs.current()
        self._started = time.monotonic() if record is None else record.started
        self._share = 0.0
        self._texts: list[str] = []

    def admitted(self, place: int) -> None:
        """The engine has it."""
        answer = self._answers[place]
        answer.admitted = time.monotonic()
        answer.mark = self._observer.meter.enter()
        self._metrics.queued.observe(answer.admitted - self._started)

    def part(self, part: Part) -> None:
        """Some of it came."""
        now = time.monotonic()
        answer = self._answers[part.index]
        if part.tokens:
            if answer.first is None:
                self._first(answer, now)
            else:
                self._metrics.between_tokens.observe(now - answer.last)
            answer.last = now
            answer.tokens += len(part.tokens)
            self._metrics.counts.generation_tokens += len(part.tokens)
            self._metrics.tokens.add(len(part.tokens), now)
            self._observer.meter.look_if_due(now)
        if self._observer.with_text:
            self._texts.append(part.reasoning + part.text)
        if part.finish is not None:
            self._finished(answer, part.finish)

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes; `error`: what ended it, None when all its answers are whole."""
        for answer in self._answers:
            self._leave(answer)
        counts = self._metrics.counts
        counts.requests += 1
        counts.cached_tokens += self._usage.cached_tokens
        unfinished = any(answer.finish is None for answer in self._answers)
        gone = unfinished and isinstance(error, asyncio.CancelledError | GeneratorExit)
        counts.aborted += gone
        self._note(error, gone)
        if any(answer.first is not None for answer in self._answers):
            self._record()
            if self._observer.with_text:
                self._log_text()

    def _first(self, answer: _Answer, now: float) -> None:
        answer.first = now
        self._metrics.first_token.observe(now - self._started)
        self._metrics.counts.prompt_tokens += answer.prompt_tokens
        if answer.prompt_tokens:
            self._metrics.prompt.observe(answer.prompt_tokens)
            self._metrics.answers.observe(answer.ask.n)
        if answer.admitted is not None:
            self._metrics.prefill.observe(now - answer.admitted)

    def _finished(self, answer: _Answer, finish: str) -> None:
        answer.finish = finish
        self._leave(answer)
        metrics = self._metrics
        metrics.counts.finished[finish] += 1
        metrics.whole.observe(answer.last - self._started)
        metrics.generated.observe(answer.tokens)
        if answer.ask.sampling.max_tokens is not None:
            metrics.limit.observe(answer.ask.sampling.max_tokens)
        if answer.admitted is None or answer.first is None:
            return
        metrics.inference.observe(answer.last - answer.admitted)
        metrics.decode.observe(answer.last - answer.first)
        if answer.tokens > 1:
            metrics.per_token.observe((answer.last - answer.first) / (answer.tokens - 1))

    def _leave(self, answer: _Answer) -> None:
        mark, answer.mark = answer.mark, None
        if mark is not None:
            self._share += self._observer.meter.leave(mark)

    def _note(self, error: BaseException | None, gone: bool) -> None:
        reasons = {answer.finish for answer in self._answers if answer.finish is not None}
        finish = "abort" if gone else ",".join(sorted(reasons))
        logs.note(
            (error.code or error.kind) if isinstance(error, ApiError) else None,
            key=self._caller.key,
            model=self._asks[0].model if self._asks else None,
            prompt_tokens=self._usage.prompt_tokens,
            completion_tokens=self._usage.completion_tokens,
            cached_tokens=self._usage.cached_tokens,
            finish_reason=finish or None,
        )

    def _record(self) -> None:
        usage = self._usage
        entry = Entry(
            time.time(),
            self._caller.key,
            self._asks[0].model,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens,
            seconds=self._share,
        )
        self._observer.ledger.record(entry)

    def _log_text(self) -> None:
        decode = self._observer.tokenizer.decode
        prompts = [decode(list(ask.ids), skip_special=False) for ask in self._asks]
        fields = {"prompt": "\n".join(prompts), "answer": "".join(self._texts)}
        _prompts.info("text", extra={"fields": fields})


class _Unseen(Trace):
    """A request that is not counted."""

    def admitted(self, place: int) -> None:
        """Nothing."""

    def part(self, part: Part) -> None:
        """Nothing."""

    def end(self, error: BaseException | None) -> None:
        """Nothing."""
