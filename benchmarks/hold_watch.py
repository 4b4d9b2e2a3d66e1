"""Asks `/health` all the time and looks at the memory of a service's processes."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import psutil

from serving_servers import Server

_EVERY_S = 0.02
_MIB = 1 << 20


class Watch:
    """Between `begin` and `end`: the worst answer of `/health`, and the most memory taken beyond that at the
    begin."""

    def __init__(self, server: Server) -> None:
        self._port = urlsplit(server.url).port
        self._service = psutil.Process(server.pid)
        self._worst = 0.0
        self._peak: dict[str, float] = {}
        self._idle: dict[str, float] = {}
        self._closed = False
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._ask, self._look)]
        self.begin()
        for thread in self._threads:
            thread.start()

    def begin(self) -> None:
        """From now on."""
        self._idle, self._worst = self.memory(), 0.0
        self._peak = dict(self._idle)

    def end(self) -> dict[str, Any]:
        """`health_s` and `memory_mib`, by process."""
        more = {who: round(self._peak[who] - self._idle[who], 1) for who in self._peak}
        return {"health_s": round(self._worst, 4), "memory_mib": more}

    def close(self) -> None:
        """No more."""
        self._closed = True
        for thread in self._threads:
            thread.join()

    def memory(self) -> dict[str, float]:
        """MiB of the service's own process, of its engine, and of those that read texts."""
        sizes = {"service": self._service.memory_info().rss / _MIB, "engine": 0.0, "text": 0.0}
        for child in self._service.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                who = "engine" if "sampan.server.process.worker" in child.cmdline() else "text"
                sizes[who] += child.memory_info().rss / _MIB
        return sizes

    def _look(self) -> None:
        for _ in self._rounds():
            with suppress(psutil.Error):
                for who, size in self.memory().items():
                    self._peak[who] = max(self._peak[who], size)

    def _ask(self) -> None:
        for _ in self._rounds():
            started = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                connection.request("GET", "/health")
                connection.getresponse().read()
            except OSError:
                self._worst = 10.0
            finally:
                connection.close()
            self._worst = max(self._worst, time.monotonic() - started)

    def _rounds(self) -> Iterator[None]:
        while not self._closed:
            yield
            time.sleep(_EVERY_S)
