"""Bodies of requests: JSON in UTF-8, whose numbers are numbers and whose texts are Unicode. A byte order mark
before it is passed over (RFC 8259, 8.1).

Python's parser also takes NaN, numbers that become infinite, and halves of surrogate pairs; none of them can
be written into an answer again.
"""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

LONG = 64 << 10
"""Bytes from which on a text is long."""
_DOUBTFUL = re.compile(rb"\\u[dD][89a-fA-F]|[0-9]{300}|[eE]\+?[0-9]{3}")


class JsonRoute(APIRoute):
    """A route whose requests are read so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI wants it."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_Request(request.scope, request.receive))

        return handle


class _Request(Request):
    async def json(self) -> Any:
        """The body; `JSONDecodeError` for what is no JSON. A long one is parsed where nobody waits for it."""
        if not hasattr(self, "_json"):
            body = await self.body()
            if len(body) > LONG:
                self._json = await self.app.state.service.texts.parsed(body, self.state.caller)
                self._body = b""
            else:
                self._json = parsed(body)
        return self._json


def parsed(body: bytes) -> Any:
    """The value that a body of JSON is."""
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("it is not UTF-8", "", error.start) from None
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from None
    if _DOUBTFUL.search(body):
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            raise json.JSONDecodeError("a text in it has half a surrogate pair", "", 0) from None
        except (ValueError, RecursionError):
            raise json.JSONDecodeError("a number in it is too large", "", 0) from None
    return value


def _refuse(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"it has {name}, which is no number", "", 0)
