"""Answers asks: admission, the queue, the engine, and what came of it."""

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from hashlib import blake2b
from typing import Any

from starlette.requests import Request

from sampan.core.errors import ContextOverflow, RequestError, quoted
from sampan.core.types import Grammar, SamplingParams
from sampan.llm.inputs import sample_of
from sampan.server.admission import Admission
from sampan.server.answer import Reader
from sampan.server.ask import Ask, Caller, Part, Tools, Usage
from sampan.server.dispatch import Dispatcher
from sampan.server.errors import ApiError, bad_request
from sampan.server.grammars import Grammars
from sampan.server.process import wire
from sampan.server.process.mailbox import Mailbox
from sampan.server.process.supervisor import Supervisor
from sampan.server.process.text_workers import TextWorkers
from sampan.server.settings import ServeSettings
from sampan.server.sse import unless_gone
from sampan.server.text import ModelText
from sampan.server.texts import Texts
from sampan.server.thinking import Thinking
from sampan.server.watch.trace import PROBE, Observer, Trace
from sampan.text.tools import grammar as grammar_of_calls


class Service:
    """One served model. `context`: tokens of the longest sequence. `thinking`: what can be asked of it.
    `draining`: nothing new is taken."""

    def __init__(
        self,
        settings: ServeSettings,
        text: ModelText,
        supervisor: Supervisor,
        admission: Admission,
        workers: TextWorkers,
    ) -> None:
        assert supervisor.ready is not None
        self.settings = settings
        self.admission = admission
        self.text = text
        self.supervisor = supervisor
        self.context = supervisor.ready.context
        self.texts = Texts(
            text, workers, self.context, settings.max_body, literal=not settings.control_tokens
        )
        self.thinking = Thinking()
        self.grammars = Grammars(supervisor, settings.max_queue)
        self.dispatcher = Dispatcher(settings.engine.max_sequences, settings.max_queue)
        self.started = int(time.time())
        self.draining = False
        path = settings.engine.files.path
        self._model_print = blake2b(f"{path.name} {path.stat().st_size}".encode(), digest_size=4).hexdigest()
        self._secret = secrets.token_bytes(32)
        self.observer = Observer(self)

    async def prepare(self) -> None:
        """What takes the text workers, once, before the first request."""
        self.thinking = Thinking(*await self.texts.thinking())

    async def conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling: SamplingParams,
        caller: Caller,
        *,
        model: str,
        n: int,
        grammar: Grammar | None,
        tools: Tools | None,
        variables: Mapping[str, Any],
    ) -> Ask:
        """A conversation as an ask."""
        listed = () if tools is None else tools.callable
        ids, thinking = await self.texts.rendered(messages, caller, tools=listed, variables=variables)
        if tools is not None:
            grammar = self._calls(tools, grammar)
        return Ask(ids, sampling, model, n, thinking, grammar, tools=tools)

    def _calls(self, tools: Tools, form: Grammar | None) -> Grammar | None:
        """What an answer with calls, or one in words of this form, must look like."""
        try:
            return grammar_of_calls(self.text.tool_format, tools.offered, tools.choice, tools.parallel, form)
        except RequestError as error:
            raise bad_request(str(error), param="tools") from error

    @property
    def models(self) -> list[str]:
        """Names that can be asked: the model's and its adapters'."""
        return [self.text.name, *self.supervisor.changes.adapters]

    @property
    def fingerprint(self) -> str:
        """Of the model, and the version of its weights."""
        return f"sampan-{self._model_print}-v{self.supervisor.weights_version}"

    def headers(self, caller: Caller) -> dict[str, str]:
        """Of an answer: what its caller may still do, and the version of the weights."""
        version = str(self.supervisor.weights_version)
        return {**self.admission.headers(caller), "x-weights-version": version}

    def answer(self, ask: Ask, caller: Caller, usage: Usage) -> AsyncIterator[Part]:
        """The parts of an ask's answers as they come; `usage` counts along. Closing it ends the answers.

        Raises `ApiError` for what is refused, before the first part where it can be known by then.
        """
        return self.answer_all([ask], caller, usage)

    async def answer_all(self, asks: Sequence[Ask], caller: Caller, usage: Usage) -> AsyncIterator[Part]:
        """The same for several asks side by side, of one grammar; the answers of all count on."""
        for ask in asks:
            self._check(ask)
        reservation = self.admission.admit(asks, caller, self.context)
        trace = self.observer.begin(asks, caller, usage)
        try:
            grammar, thinking = asks[0].grammar, asks[0].thinking
            async with self.grammars.ready(grammar, thinking, caller) as ready:
                requests = [
                    self._request(ask, sample, caller, ready) for ask in asks for sample in range(ask.n)
                ]
                readers = [Reader(self.text, ask, place) for place, ask in enumerate(_each(asks))]
                answers = self._answers(requests, readers, caller, usage, trace)
                async with aclosing(answers):  # type: ignore[type-var]
                    async for part in answers:
                        yield part
        except ApiError as error:
            if error.param == "grammar":
                raise error.at(asks[0].constraint) from error
            raise
        finally:
            self.admission.settle(reservation, usage)
            trace.end(sys.exception())

    async def _answers(
        self,
        requests: Sequence[wire.Submit],
        readers: Sequence[Reader],
        caller: Caller,
        usage: Usage,
        trace: Trace,
    ) -> AsyncIterator[Part]:
        mailbox = Mailbox()
        tasks = [
            asyncio.create_task(self._occupy(request, place, caller, mailbox, trace))
            for place, request in enumerate(requests)
        ]
        left = len(requests)
        try:
            while left:
                for place, news in await mailbox.take():
                    if isinstance(news, ApiError):
                        raise news
                    if readers[place].finished:
                        continue  # steps that ran before a stop text was known
                    part = readers[place].take(news)
                    _count(usage, part, news.cached_tokens)
                    trace.part(part)
                    if readers[place].finished:
                        left -= 1
                        mailbox.taken.add(place)
                        tasks[place].cancel()
                    yield part
        finally:
            gone = isinstance(sys.exception(), asyncio.CancelledError | GeneratorExit)
            mailbox.left = gone
            for task in tasks:
                task.cancel()

    def probe(self, ask: Ask) -> AsyncIterator[Part]:
        """Ask the engine past the queue, to see whether it lives."""
        return self.answer(ask, PROBE, Usage(len(ask.ids)))

    async def opened(self, request: Request, parts: AsyncIterator[Part]) -> AsyncIterator[Part]:
        """The same parts, once the first is there: until then an error still has a status of its own."""
        try:
            first: Part = await unless_gone(request, anext(parts))  # type: ignore[arg-type]
        except StopAsyncIteration:
            return _none()
        except BaseException:
            await parts.aclose()  # type: ignore[attr-defined]
            raise
        return _after(first, parts)

    def check_model(self, name: str) -> None:
        """A 404 for one that is not served here."""
        if name not in self.models:
            message = f"the model {quoted(name)} is not served here: /v1/models lists what is"
            raise ApiError(404, message, code="model_not_found", param="model")

    def _check(self, ask: Ask) -> None:
        if self.draining:
            raise ApiError(
                503, "the service is going down", kind="server_error", code="draining", retry_after=5
            )
        self.check_model(ask.model)
        if not ask.ids:
            raise bad_request("the prompt is empty: give at least one token", param="prompt")
        generates = ask.sampling.max_tokens != 0 and ask.pooling is None
        if len(ask.ids) + generates > self.context:
            overflow = ContextOverflow(len(ask.ids), self.context)
            raise bad_request(str(overflow), code="context_length_exceeded")
        try:
            ask.sampling.limit(len(ask.ids), self.context)
        except RequestError as error:
            raise bad_request(str(error), param="max_tokens") from error

    def _request(self, ask: Ask, sample: int, caller: Caller, grammar: int | None) -> wire.Submit:
        """What the engine is told of one answer."""
        sampling = sample_of(ask.sampling, sample)
        adapter = None if ask.model == self.text.name else ask.model
        salt = self._salt(ask, caller)
        return wire.Submit(
            0,
            ask.ids,
            sampling,
            grammar,
            ask.thinking,
            adapter,
            salt,
            ask.scoring,
            ask.pooling,
            ask.continues,
        )

    def _salt(self, ask: Ask, caller: Caller) -> bytes:
        """What its pages in the cache depend on: only requests of one salt share them."""
        key = None if self.settings.shared_cache else caller.key
        if key is None and ask.cache_salt is None:
            return b""
        return blake2b(repr((key, ask.cache_salt)).encode(), digest_size=24, key=self._secret).digest()

    async def _occupy(
        self, request: wire.Submit, place: int, caller: Caller, mailbox: Mailbox, trace: Trace
    ) -> None:
        """Wait for a turn, hand one answer's request to the engine, and hold its slot until cancelled."""
        try:
            async with self.dispatcher.slot(caller, len(request.ids)) as turn:
                name = self.supervisor.submit(mailbox, place, request)
                try:
                    trace.admitted(place)
                    await asyncio.get_running_loop().create_future()
                finally:
                    self.supervisor.abort(name)
                    self.dispatcher.charge(turn, mailbox.tokens[place])
                    if place in mailbox.taken or mailbox.left:
                        self.dispatcher.ended(turn, abandoned=place not in mailbox.taken)
        except ApiError as error:
            mailbox.put(place, error)


def _each(asks: Sequence[Ask]) -> Iterator[Ask]:
    """The ask of each answer."""
    return (ask for ask in asks for _ in range(ask.n))


def _count(usage: Usage, part: Part, cached_tokens: int) -> None:
    usage.completion_tokens += len(part.tokens)
    usage.cached_tokens = max(usage.cached_tokens, cached_tokens)
    usage.reasoning_tokens += bool(part.reasoning)


async def _after(first: Part, parts: AsyncIterator[Part]) -> AsyncIterator[Part]:
    async with aclosing(parts):  # type: ignore[type-var]
        yield first
        async for part in parts:
            yield part


async def _none() -> AsyncIterator[Part]:
    return
    yield
