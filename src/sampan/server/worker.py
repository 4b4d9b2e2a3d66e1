"""The engine's process: `python -m sampan.server.worker FD`, a socket whose other end the service holds.

It loads what the first frame names, says `Ready` or `Failed`, and then answers. It ends when the service
does.
"""

import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

from sampan.core.errors import ContextOverflow, SampanError
from sampan.core.memory import resident_memory
from sampan.engine.budget import Wish
from sampan.engine.sequence import Event
from sampan.llm.driver import Driver, Generation, News
from sampan.llm.load import Loaded, load
from sampan.server import wire
from sampan.server.settings import EngineSettings
from sampan.text.grammar import GrammarCompiler

BEAT_S = 0.25


class Outbox:
    """Sends from a thread of its own: a full socket never holds up the engine. Events that wait become one
    frame."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._queue: SimpleQueue[object] = SimpleQueue()
        threading.Thread(target=self._run, name="sampan-outbox", daemon=True).start()

    def put(self, message: object) -> None:
        """An event, or a message as it is."""
        self._queue.put(message)

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            frames, events = [], []
            for message in (first, *self._rest()):
                if isinstance(message, Event):
                    events.append(message)
                else:
                    frames.append(wire.pack(message))
            if events:
                frames.append(wire.pack(wire.Step(tuple(events))))
            try:
                self._connection.sendall(b"".join(frames))
            except OSError:
                os._exit(0)  # the service is gone

    def _rest(self) -> list[object]:
        rest = []
        try:
            while True:
                rest.append(self._queue.get_nowait())
        except Empty:
            return rest


class Worker:
    """Takes requests from the socket to the driver, and events back."""

    def __init__(self, loaded: Loaded, outbox: Outbox) -> None:
        self._engine = loaded.engine
        self._driver = Driver(loaded.engine)
        self._outbox = outbox
        self._tickets: dict[int, Generation] = {}
        self._grammars = GrammarCompiler(loaded.tokenizer)
        self._compilers = ThreadPoolExecutor(1, "sampan-grammar")

    def serve(self, connection: socket.socket) -> None:
        """Until the service closes its end."""
        while (message := wire.receive(connection)) is not None:
            if isinstance(message, wire.Submit):
                self._submit(message)
            elif isinstance(message, wire.Abort):
                self._abort(message.id)

    def beat(self) -> wire.Beat:
        """The engine now. Read from another thread: each number is right, together they are close."""
        engine, counters = self._engine, self._engine.counters
        return wire.Beat(
            steps=engine.steps,
            busy=not engine.idle,
            running=len(engine.scheduler.running),
            waiting=len(engine.scheduler.waiting),
            pages_used=engine.pool.count - engine.pool.free,
            pages_asked=counters.pages_asked,
            pages_found=counters.pages_found,
            drafted=counters.drafted,
            accepted=counters.accepted,
            preempted=counters.preempted,
            resident_bytes=resident_memory(),
        )

    def _submit(self, message: wire.Submit) -> None:
        def deliver(news: News) -> None:
            self._deliver(message.id, news)

        ticket = Generation([], deliver)
        self._tickets[message.id] = ticket
        if message.grammar is None:
            ticket.requests = [(message.ids, message.sampling)]
            self._driver.submit(ticket)
        else:
            self._compilers.submit(self._compile, message, ticket)

    def _compile(self, message: wire.Submit, ticket: Generation) -> None:
        """On a thread of its own: nobody else waits for a grammar."""
        assert message.grammar is not None
        if ticket.closed:
            return
        try:
            constraint = self._grammars.compile(message.grammar, thinking=message.thinking)
        except Exception as error:
            self._deliver(message.id, error)
            return
        ticket.requests = [(message.ids, message.sampling, constraint)]
        self._driver.submit(ticket)

    def _abort(self, name: int) -> None:
        ticket = self._tickets.pop(name, None)
        if ticket is not None:
            self._driver.withdraw(ticket)

    def _deliver(self, name: int, news: News) -> None:
        if isinstance(news, Exception):
            self._tickets.pop(name, None)
            self._outbox.put(wire.Refused(name, str(news), isinstance(news, ContextOverflow)))
            return
        for _, event in news:
            assert isinstance(event, Event)
            if event.finish_reason is not None:
                self._tickets.pop(name, None)
            self._outbox.put(Event(name, event.token, event.finish_reason, event.error, event.cached_tokens))


def main() -> None:
    """Run as a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service is told, and decides
    connection = socket.socket(fileno=int(sys.argv[1]))
    settings = wire.receive(connection)
    assert isinstance(settings, EngineSettings)
    outbox = Outbox(connection)
    started = time.perf_counter()
    try:
        loaded = _load(settings)
    except SampanError as error:
        connection.sendall(wire.pack(wire.Failed(str(error))))
        return
    worker = Worker(loaded, outbox)
    outbox.put(_ready(loaded, time.perf_counter() - started))
    threading.Thread(target=_beat, args=(worker, outbox), name="sampan-beat", daemon=True).start()
    worker.serve(connection)
    os._exit(0)  # nobody is left to answer: no step is waited for


def _load(settings: EngineSettings) -> Loaded:
    wish = Wish(settings.memory, settings.context, settings.max_sequences, None, settings.cache)
    return load(
        settings.files,
        settings.settings,
        wish,
        threads=settings.threads,
        prefix_cache=True,
        speculation=True,
    )


def _ready(loaded: Loaded, seconds: float) -> wire.Ready:
    engine, plan = loaded.engine, loaded.plan
    return wire.Ready(
        context=engine.context,
        max_sequences=engine.scheduler.max_sequences,
        pages=engine.pool.count,
        page_tokens=engine.pool.size,
        weights_bytes=plan.weights_bytes,
        cache_bytes=plan.cache_bytes,
        workspace_bytes=plan.workspace_bytes,
        threads=loaded.machine.threads,
        load_seconds=seconds,
    )


def _beat(worker: Worker, outbox: Outbox) -> None:
    while True:
        outbox.put(worker.beat())
        time.sleep(BEAT_S)


if __name__ == "__main__":
    main()
