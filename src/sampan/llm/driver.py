"""One thread that owns an engine, so that any number of threads and tasks can use it at once.

Requests come through an inbox and join the running batch at the next step; their events go back through
their ticket. The thread starts with the first request and sleeps while there is none. A step that fails
fails the requests in it, not the process; a ticket whose owner fails ends alone. A forked process has
neither this thread nor the kernels': there the driver refuses everything. Nothing here knows text.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from sampan.core.errors import RequestError, SampanError
from sampan.core.types import Pooling, SamplingParams, Scoring
from sampan.engine.constraint import Constraint
from sampan.engine.engine import Engine
from sampan.engine.sequence import Event

News = Sequence[tuple[int, Event]] | Exception
"""Events of one step with the places of their requests in the ticket, or why there will be none."""
T = TypeVar("T")


class Request(NamedTuple):
    """A prompt, how to answer it, what the answer must obey, the id of the adapter that gives it, what its
    cached pages depend on besides, and how its own tokens are scored or pooled."""

    tokens: Sequence[int]
    sampling: SamplingParams
    constraint: Constraint | None = None
    adapter: int | None = None
    salt: bytes = b""
    scoring: Scoring | None = None
    pooling: Pooling | None = None


class Gone(Exception):
    """What a `deliver` raises when nobody is there any more who could take its news."""


class Ticket:
    """Work handed in together. `deliver` is called on the driver's thread and must not block; if it raises,
    the ticket is withdrawn.

    `ids`: the engine's names for its requests, once they have started.
    """

    def __init__(self, deliver: Callable[[News], None]) -> None:
        self.deliver = deliver
        self.closed = False
        self.ids: list[int] = []


class Generation(Ticket):
    """Requests to answer."""

    def __init__(self, requests: Sequence[Request], deliver: Callable[[News], None]) -> None:
        super().__init__(deliver)
        self.requests = requests


class Call(Ticket):
    """Something to do with the engine between two steps; `idle`: when no request runs."""

    def __init__(self, act: Callable[[Engine], object], idle: bool) -> None:
        super().__init__(self._fail)
        self.act = act
        self.idle = idle
        self.result: Future[Any] = Future()

    def _fail(self, news: News) -> None:
        assert isinstance(news, Exception)
        self.result.set_exception(news)


class Driver:
    """Steps `engine` on a thread of its own; nobody else may use the engine meanwhile."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # Unlike a queue with a condition, a SimpleQueue may be put to from a destructor.
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting: deque[Ticket] = deque()
        self._running: dict[int, tuple[Generation, int]] = {}
        self._door = threading.RLock()
        self._thread: threading.Thread | None = None
        self._refusal: SampanError | None = None
        self._process = os.getpid()

    @property
    def here(self) -> bool:
        """Whether this is the process that loaded the model, and no fork of it."""
        return os.getpid() == self._process

    def require_here(self) -> None:
        """`RequestError` in a forked process."""
        if not self.here:
            raise RequestError(
                "this LLM was loaded before this process was forked and cannot be used in it: "
                "load it after the fork, in the process that uses it"
            )

    def call(self, act: Callable[[Engine], T], *, idle: bool = False) -> T:
        """What `act` gives, on the engine's thread, between two steps. `idle`: after the requests handed in
        before; those that come later wait."""
        ticket = Call(act, idle)
        self.submit(ticket)
        try:
            found: T = ticket.result.result()
            return found
        finally:
            self.withdraw(ticket)

    def submit(self, ticket: Ticket) -> None:
        """Hand work in. What can never be served is told through the ticket."""
        self.require_here()  # before the lock, which another thread may have held at the fork
        with self._door:
            if self._refusal is not None:
                raise self._refusal
            at_once = isinstance(ticket, Call) and not ticket.idle
            self._inbox.put(partial(self._start if at_once else self._waiting.append, ticket))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sampan-engine", daemon=True)
                self._thread.start()

    def withdraw(self, ticket: Ticket) -> None:
        """Forget a ticket and its requests, before the next step. From any thread, any number of times."""
        if not ticket.closed:
            ticket.closed = True
            if self.here:
                self._inbox.put(partial(self._abort, ticket))

    def abort(self, ticket: Ticket, place: int) -> None:
        """Forget one request of a ticket, before the next step."""
        if self.here:
            self._inbox.put(partial(self._abort_one, ticket, place))

    def close(self) -> None:
        """End everything and wait for the thread; whoever waits is told."""
        if not self.here:
            vars(self).pop("engine", None)
            return
        with self._door:
            self._refusal = self._refusal or RequestError("this LLM is closed: make a new one")
            thread, self._thread = self._thread, None
        self._inbox.put(None)
        if thread is not threading.current_thread():
            if thread is not None:
                thread.join()
            vars(self).pop("engine", None)

    def _run(self) -> None:
        try:
            while self._take_in():
                if not self.engine.idle:
                    self._step()
        except BaseException as error:  # whatever it is, nobody may wait forever
            with self._door:
                self._refusal = _failure(error)
        self._end()

    def _take_in(self) -> bool:
        """Do what the inbox says, and sleep while there is nothing to do. False: the end has come."""
        asleep = self.engine.idle and not self._waiting
        while asleep or not self._inbox.empty():
            command = self._inbox.get()
            if command is None:
                return False
            command()
            asleep = False
        while self._waiting and (self.engine.idle or not isinstance(self._waiting[0], Call)):
            self._start(self._waiting.popleft())
        return True

    def _start(self, ticket: Ticket) -> None:
        if ticket.closed:
            return
        if self._refusal is not None:
            self._tell(ticket, self._refusal)
            return
        try:
            if isinstance(ticket, Call):
                ticket.result.set_result(ticket.act(self.engine))
            elif isinstance(ticket, Generation):
                self._add(ticket)
        except BaseException as error:
            self._drop(ticket, error if isinstance(error, SampanError) else _failure(error))

    def _add(self, ticket: Generation) -> None:
        for place, r in enumerate(ticket.requests):
            try:
                request = self.engine.add(
                    r.tokens,
                    r.sampling,
                    constraint=r.constraint,
                    adapter=r.adapter,
                    salt=r.salt,
                    scoring=r.scoring,
                    pooling=r.pooling,
                )
            except RequestError as error:
                if len(ticket.requests) == 1:
                    raise
                raise RequestError(f"prompt {place}: {error}") from error
            ticket.ids.append(request)
            self._running[request] = (ticket, place)

    def _step(self) -> None:
        try:
            events = self.engine.step()
        except Exception as error:
            failure = error if isinstance(error, SampanError) else _failure(error)
            for ticket in dict.fromkeys(ticket for ticket, _ in self._running.values()):
                self._drop(ticket, failure)
            return
        news: dict[Generation, list[tuple[int, Event]]] = {}
        for event in events:
            ticket, place = self._running[event.request]
            if event.finish_reason is not None:
                del self._running[event.request]
            news.setdefault(ticket, []).append((place, event))
        for ticket, part in news.items():
            self._tell(ticket, part)

    def _tell(self, ticket: Ticket, news: News) -> None:
        try:
            ticket.deliver(news)
        except BaseException as error:  # its owner's code, which may raise anything
            ticket.closed = True
            self._abort(ticket)
            if not isinstance(error, Gone):
                import logging

                said = "a ticket's deliver failed, its requests are withdrawn"
                logging.getLogger(__name__).error(said, exc_info=error)

    def _drop(self, ticket: Ticket, error: Exception) -> None:
        self._abort(ticket)
        self._tell(ticket, error)

    def _abort(self, ticket: Ticket) -> None:
        for place in range(len(ticket.ids)):
            self._abort_one(ticket, place)

    def _abort_one(self, ticket: Ticket, place: int) -> None:
        if place < len(ticket.ids) and self._running.pop(ticket.ids[place], None) is not None:
            self.engine.abort(ticket.ids[place])

    def _end(self) -> None:
        """Tell everybody who waits, runs or is just coming in that there will be no answer."""
        with self._door:
            refusal = self._refusal
        assert refusal is not None
        running = dict.fromkeys(ticket for ticket, _ in self._running.values())
        self._running.clear()
        while not self._inbox.empty():
            command = self._inbox.get()
            if command is not None:
                command()
        for ticket in [*running, *self._waiting]:
            self._tell(ticket, refusal)


def _failure(error: BaseException) -> SampanError:
    failure = SampanError(f"the engine failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
