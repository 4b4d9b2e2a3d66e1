"""Runs a service: the engine's process, the HTTP server, and their end.

SIGTERM or Ctrl-C drains: nothing new is taken, running answers end, then everything stops. A second one stops
now. The other processes ignore both: who sends one to all of them sends it to this one too. While the model
loads, SIGTERM ends everything: the first process of a container has no such end of its own.
"""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from sampan.core.errors import SampanError
from sampan.core.memory import keep_for_good
from sampan.server.admission import Admission
from sampan.server.app import create_app
from sampan.server.process import text_process, wire
from sampan.server.process.supervisor import Supervisor
from sampan.server.process.text_workers import TextWorkers
from sampan.server.protocol import Protocol
from sampan.server.service import Service
from sampan.server.settings import ServeSettings
from sampan.server.text import ModelText
from sampan.server.watch import logs

_BACKLOG = 4096
_OWN_FILES = 256  # for everything that is no client's connection


def serve(settings: ServeSettings, started: Callable[[str], None]) -> None:
    """Serve until told to end; `started` hears the address. `SampanError` for what cannot be served."""
    most = _raise_file_limit()
    with _bound(settings) as listener:
        text = ModelText.read(settings.engine.files, settings.model)
        door = text_process.fork(text, listener)  # before there is any thread
        runner: Callable[..., None]
        try:
            import uvloop

            runner = uvloop.run
        except ImportError:
            runner = asyncio.run
        with logs.written(settings.log_format), contextlib.suppress(asyncio.CancelledError):
            runner(_serve(settings, text, door, listener, most, started))


async def _serve(
    settings: ServeSettings,
    text: ModelText,
    door: socket.socket,
    listener: socket.socket,
    most: int,
    started: Callable[[str], None],
) -> None:
    admission = Admission.open(settings)
    adapters = [wire.Change(0, "load", name, path) for name, path in settings.adapters.items()]
    engine = settings.engine
    supervisor = Supervisor(engine, stall_s=settings.stall_s, change_s=settings.change_s, changes=adapters)
    workers = TextWorkers(settings, door)
    watch: asyncio.Task[None] | None = None
    loop, loading = asyncio.get_running_loop(), asyncio.current_task()
    assert loading is not None
    loop.add_signal_handler(signal.SIGTERM, loading.cancel)
    try:
        await supervisor.start()
        service = Service(settings, text, supervisor, admission, workers)
        await service.prepare()
        watch = asyncio.create_task(service.dispatcher.watch())
        server = _Server(_config(settings, service, most), service)
        keep_for_good()
        host, port = listener.getsockname()[:2]
        started(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        loop.remove_signal_handler(signal.SIGTERM)  # from here on it drains
        await server.serve(sockets=[listener])
    finally:
        if watch is not None:
            watch.cancel()
        workers.close()
        await supervisor.stop()
        admission.close()


def _config(settings: ServeSettings, service: Service, most: int) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(service),
        http=type("Protocol", (Protocol,), {"header_s": settings.header_s, "write_s": settings.write_s}),
        loop="none",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=most,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(settings.drain_s),
    )


class _Server(uvicorn.Server):
    """A second signal does not wait."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._service.draining = True
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


def _bound(settings: ServeSettings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        raise SampanError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; choose another --port"
        ) from error
    return listener


def _raise_file_limit() -> int:
    """Connections to take at most, after asking for as many files as are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    logging.getLogger("sampan.server").debug("at most %d open files", soft)
    return max(64, soft - _OWN_FILES)
