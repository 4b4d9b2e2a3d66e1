"""Runs a service: the engine's process, the HTTP server, and their end.

SIGTERM or Ctrl-C drains: nothing new is taken, running answers end, then everything stops. A second one stops
now.
"""

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from sampan.core.errors import SampanError
from sampan.server.admission import Admission
from sampan.server.app import create_app
from sampan.server.process import wire
from sampan.server.process.supervisor import Supervisor
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
    with logs.written(settings.log_format), _bound(settings) as listener:
        text = ModelText.read(settings.engine.files, settings.model)
        runner: Callable[..., None]
        try:
            import uvloop

            runner = uvloop.run
        except ImportError:
            runner = asyncio.run
        runner(_serve(settings, text, listener, most, started))


async def _serve(
    settings: ServeSettings,
    text: ModelText,
    listener: socket.socket,
    most: int,
    started: Callable[[str], None],
) -> None:
    admission = Admission.open(settings)
    adapters = [wire.Change(0, "load", name, path) for name, path in settings.adapters.items()]
    supervisor = Supervisor(settings.engine, stall_s=settings.stall_s, changes=adapters)
    try:
        await supervisor.start()
        service = Service(settings, text, supervisor, admission)
        server = _Server(_config(settings, service, most), service)
        host, port = listener.getsockname()[:2]
        started(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        await server.serve(sockets=[listener])
    finally:
        await supervisor.stop()
        admission.close()


def _config(settings: ServeSettings, service: Service, most: int) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(service),
        http=type("Protocol", (Protocol,), {"header_s": settings.header_s}),
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
