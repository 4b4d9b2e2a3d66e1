"""Logs: one line an event to a stream, as text or JSON, each with the id of the request it belongs to.

Contract: a line is one line; it holds no API key, and no text of prompts unless that is asked for. Writing
is a thread's work: a stream that blocks or fails holds nothing up, lines beyond `_MOST_LINES` are dropped and
counted. Every request gets an id (the client's `x-request-id` if it is sane), a header that says it, and one
line at its end.
"""

import json
import logging
import re
import sys
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sampan.server.fields import Ignored

_MOST_LINES = 10_000
_CLOSING_S = 2.0
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_KEY = re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{8,}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.$-]")
_MOST_TOLD, _LONGEST = 32, 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_POLLED = frozenset({"/health", "/ready", "/metrics", "/page/live", "/page/render"})

_access = logging.getLogger("sampan.access")


@dataclass
class Record:
    """What is known of a request by its end. `fields`: tokens, key id, finish reason. `error`: its kind.
    `ignored`: fields of its body that were passed over."""

    id: str
    started: float
    error: str | None = None
    ignored: set[Ignored] = field(default_factory=set)
    fields: dict[str, Any] = field(default_factory=dict)


_current: ContextVar[Record | None] = ContextVar("request", default=None)


def current() -> Record | None:
    """The request that is being answered here."""
    return _current.get()


def headers() -> dict[str, str]:
    """The header that names this request."""
    record = _current.get()
    return {} if record is None else {"x-request-id": record.id}


def note(error: str | None = None, **fields: Any) -> None:
    """Add to the line of this request."""
    record = _current.get()
    if record is not None:
        record.error = error or record.error
        record.fields.update(fields)


def ignore(fields: Iterable[Ignored]) -> None:
    """Say with the answer to this request that these fields were passed over."""
    record = _current.get()
    if record is not None:
        record.ignored.update(fields)


class Access:
    """Gives every HTTP request an id and a line. `ended` hears its method, route, status, error, and which of
    its fields were passed over."""

    def __init__(
        self, app: ASGIApp, ended: Callable[[str, str, int, str | None, Iterable[Ignored]], None]
    ) -> None:
        self._app = app
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(_sane_id(scope) or uuid.uuid4().hex, time.monotonic())
        _current.set(record)
        status = 500
        name = (b"x-request-id", record.id.encode())

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                told = [(b"x-ignored-fields", _names(record).encode())] if record.ignored else []
                message["headers"] = [*message.get("headers", ()), name, *told]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            record.error = record.error or "internal_error"
            raise
        finally:
            self._line(scope, record, status)

    def _line(self, scope: Scope, record: Record, status: int) -> None:
        error = record.error or (f"http_{status}" if status >= 400 else None)
        route = getattr(scope.get("route"), "path", "unknown")
        self._ended(scope["method"], route, status, error, record.ignored)
        quiet = status < 400 and scope["path"] in _POLLED
        seconds = round(time.monotonic() - record.started, 4)
        fields = {
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "seconds": seconds,
        }
        fields |= record.fields | ({"error": error} if error else {})
        fields |= {"ignored": _names(record)} if record.ignored else {}
        _access.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": fields})


def _names(record: Record) -> str:
    """The fields that were passed over, as a header can tell them; of very many, the first."""
    names = {_UNSAFE.sub("_", field.name)[:_LONGEST] for field in record.ignored}
    return ", ".join(sorted(names)[:_MOST_TOLD])


def _sane_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            return text if _ID.fullmatch(text) and not _KEY.search(text) else None
    return None


class Formatter(logging.Formatter):
    """A record as one line. `style`: "text" or "json". An exception's traceback is part of it."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        request = _current.get()
        row: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": "uvicorn" if record.name == "uvicorn.error" else record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if request is not None:
            row["request_id"] = request.id
        if record.exc_info and record.exc_info[0] is not None:
            row["exception"] = "".join(traceback.format_exception(*record.exc_info))
        row = {name: _plain(value) for name, value in row.items()}
        return json.dumps(row) if self._json else _text(row)


def _plain(value: object) -> str | int | float | None:
    """A number as it is; anything else as text, without what looks like an API key."""
    return value if value is None or isinstance(value, int | float) else _KEY.sub("sk-...", str(value))


def _text(row: dict[str, Any]) -> str:
    head = (
        f"{row.pop('time')} {row.pop('level').upper():7} {row.pop('logger')}: {_escaped(row.pop('message'))}"
    )
    known = (f"{name}={_value(value)}" for name, value in row.items() if value is not None)
    return " ".join([head, *known])


def _value(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"[\w./:+-]+", text, re.ASCII) else json.dumps(text)


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Writer(logging.Handler):
    """Writes lines from a thread of its own."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="sampan-logs", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # what is logged may be wrong; the program that logs it goes on
            line = f"a line of {record.name} could not be written: {type(error).__name__}"
        with self._changed:
            if len(self._lines) >= _MOST_LINES:
                self._dropped += 1
                return
            self._lines.append(line)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSING_S)  # a stream that nobody reads must not keep the program
        super().close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closed)
                lines, dropped = list(self._lines), self._dropped
                self._lines.clear()
                self._dropped = 0
            if not lines:
                return
            if dropped:
                lines.append(f"{dropped} lines were dropped: they came faster than they could be written")
            try:
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            except Exception:
                continue  # a full disk, a closed stream, or none


@contextmanager
def written(style: str, stream: TextIO | None = None) -> Iterator[None]:
    """Write everything that is logged to `stream` (stderr), uvicorn's lines too; the last ones at the end."""
    root, writer = logging.getLogger(), _Writer(stream or sys.stderr)
    writer.setFormatter(Formatter(style))
    before = list(root.handlers)
    for name in ("sampan", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
    root.handlers = [writer]
    try:
        yield
    finally:
        root.handlers = before
        writer.close()
