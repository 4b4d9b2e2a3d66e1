"""The engine's process: `python -m sampan.server.process.worker FD`, a socket to the service.

It loads what the first frame names, says `Ready` or `Failed`, and then answers. It ends when the service
does.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Literal

from sampan.core.errors import ContextOverflow, RequestError, SampanError
from sampan.core.memory import keep_for_good, resident_memory
from sampan.engine.sequence import Event
from sampan.llm.driver import Generation, News
from sampan.llm.loaded import LoadedModel
from sampan.server.process import wire
from sampan.server.settings import EngineSettings
from sampan.text.grammar.compiler import AnyConstraint, GrammarsBusy

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

    def __init__(self, llm: LoadedModel, outbox: Outbox) -> None:
        self._llm = llm
        self._outbox = outbox
        self._tickets: dict[int, Generation] = {}
        self._grammars: dict[int, AnyConstraint] = {}
        self._compilers = ThreadPoolExecutor(wire.COMPILERS, "sampan-grammar")
        self._changers = ThreadPoolExecutor(1, "sampan-change")

    def serve(self, connection: socket.socket) -> None:
        """Until the service closes its end."""
        while (message := wire.receive(connection)) is not None:
            if isinstance(message, wire.Submit):
                self._submit(message)
            elif isinstance(message, wire.Abort):
                self._abort(message.id)
            elif isinstance(message, wire.Compile):
                self._make_ready(message)
            elif isinstance(message, wire.Forget):
                self._grammars.pop(message.id, None)
            elif isinstance(message, wire.Change):
                self._changers.submit(self._change, message)

    def beat(self) -> wire.Beat:
        """The engine now. Read from another thread: each number is right, together they are close."""
        engine, counters = self._llm.engine, self._llm.engine.counters
        return wire.Beat(
            steps=engine.steps,
            busy=not engine.idle,
            running=len(engine.scheduler.running),
            waiting=len(engine.scheduler.waiting),
            pages_used=engine.pool.count - engine.pool.free,
            looked_up=counters.looked_up,
            found=counters.found,
            drafted=counters.drafted,
            accepted=counters.accepted,
            depths=counters.by_depth(),
            preempted=counters.preempted,
            resident_bytes=resident_memory(),
            experts=self._llm.expert_reads,
        )

    def _submit(self, message: wire.Submit) -> None:
        def deliver(news: News) -> None:
            self._deliver(message.id, news)

        ticket = Generation([], deliver)
        self._tickets[message.id] = ticket
        try:
            constraint = None if message.grammar is None else self._grammars[message.grammar].copy()
            if constraint is not None:
                constraint.continues = message.continues
            ticket.requests = [
                self._llm.request(
                    message.ids,
                    message.sampling,
                    constraint=constraint,
                    thinking=message.thinking,
                    adapter=message.adapter,
                    salt=message.salt,
                    scoring=message.scoring,
                    pooling=message.pooling,
                )
            ]
        except Exception as error:
            self._deliver(message.id, error)
        else:
            self._llm.driver.submit(ticket)

    def _make_ready(self, message: wire.Compile) -> None:
        """What is known at once, anything else on a thread that compiles: nobody else waits for it."""
        if self._llm.is_compiled(message.grammar, thinking=message.thinking):
            self._compile(message)
        elif message.at_once:
            self._outbox.put(wire.Compiled(message.id, "slow"))
        else:
            self._compilers.submit(self._compile, message)

    def _compile(self, message: wire.Compile) -> None:
        try:
            self._grammars[message.id] = self._llm.compile(message.grammar, thinking=message.thinking)
            self._outbox.put(wire.Compiled(message.id, "ready"))
        except Exception as failure:
            kind: Literal["busy", "refused"] = "busy" if isinstance(failure, GrammarsBusy) else "refused"
            self._outbox.put(wire.Compiled(message.id, kind, _said(failure)))

    def _abort(self, name: int) -> None:
        ticket = self._tickets.pop(name, None)
        if ticket is not None:
            self._llm.driver.withdraw(ticket)

    def _change(self, change: wire.Change) -> None:
        error = make(self._llm, change)
        self._outbox.put(wire.Changed(change.id, self._llm.weights_version, error))

    def _deliver(self, name: int, news: News) -> None:
        if isinstance(news, Exception):
            self._tickets.pop(name, None)
            self._outbox.put(wire.Refused(name, _said(news), _kind(news)))
            return
        for _, event in news:
            assert isinstance(event, Event)
            if event.finish_reason is not None:
                self._tickets.pop(name, None)
            self._outbox.put(replace(event, request=name))


def make(llm: LoadedModel, change: wire.Change) -> str | None:
    """Change adapters or weights; why it did not work."""
    try:
        if change.kind == "load":
            llm.load_adapter(change.name, change.path)
        elif change.kind == "unload":
            llm.unload_adapter(change.name)
        else:
            llm.update_weights(change.path)
    except Exception as error:
        return _said(error)
    return None


def _kind(error: Exception) -> Literal["request", "overflow", "failure"]:
    if isinstance(error, ContextOverflow):
        return "overflow"
    return "request" if isinstance(error, RequestError) else "failure"


def _said(error: Exception) -> str:
    """An error for a client; one that nobody meant to raise goes to the log as well."""
    if isinstance(error, SampanError):
        return str(error)
    traceback.print_exception(error)
    return f"it failed: {type(error).__name__}"


def main() -> None:
    """Run as a process."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the service is told as well, and decides
        signal.signal(number, signal.SIG_IGN)
    warnings.filterwarnings(
        "ignore", message=".* passed over "
    )  # the service reads the files too, and says so
    connection = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(target=_end_with, args=(connection,), name="sampan-end", daemon=True).start()
    start = wire.receive(connection)
    if start is None:
        return
    assert isinstance(start, wire.Start)
    outbox = Outbox(connection)
    try:
        llm, ready = _load(start)
    except SampanError as error:
        connection.sendall(wire.pack(wire.Failed(str(error))))
        return
    keep_for_good()
    worker = Worker(llm, outbox)
    outbox.put(ready)
    threading.Thread(target=_beat, args=(worker, outbox), name="sampan-beat", daemon=True).start()
    worker.serve(connection)
    os._exit(0)  # nobody is left to answer: no step is waited for


def _end_with(connection: socket.socket) -> None:
    """End when the service has gone, in the midst of loading too."""
    watched = select.poll()
    watched.register(connection, 0)  # a hang-up is told in any case
    watched.poll()
    os._exit(0)


def _load(start: wire.Start) -> tuple[LoadedModel, wire.Ready]:
    llm = _open(start.settings)
    lost = [(change, error) for change in start.changes if (error := make(llm, change)) is not None]
    if lost and not start.forgiving:
        raise SampanError(lost[0][1])
    engine, plan = llm.engine, llm.plan
    return llm, wire.Ready(
        context=engine.context,
        max_sequences=engine.scheduler.max_sequences,
        pages=engine.pool.count,
        page_tokens=engine.pool.size,
        weights_bytes=plan.weights_bytes,
        cache_bytes=plan.cache_bytes,
        workspace_bytes=plan.workspace_bytes,
        threads=llm.tuning.threads,
        load_seconds=llm.load_seconds,
        weights_version=llm.weights_version,
        lost=tuple(lost),
    )


def _open(s: EngineSettings) -> LoadedModel:
    return LoadedModel(
        s.files,
        memory=s.memory,
        context=s.context,
        threads=s.threads,
        max_sequences=s.max_sequences,
        cache=s.cache,
        adapters=s.adapters,
        adapter_rank=s.adapter_rank,
        expert_memory=s.expert_memory,
        backend=s.backend,
        device=s.device,
        draft=s.draft,
        draft_model=s.draft_model,
        draft_tokens=s.draft_tokens,
        draft_confidence=s.draft_confidence,
        settings=s.settings,
    )


def _beat(worker: Worker, outbox: Outbox) -> None:
    while True:
        outbox.put(worker.beat())
        time.sleep(BEAT_S)


if __name__ == "__main__":
    main()
