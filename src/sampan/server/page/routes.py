"""The page's routes: its files, and Markdown rendered for it.

`GET /`, `GET /page/assets/{name}` need no key: they hold nothing of anybody's. `POST /page/render` takes
{"text": …} and gives {"blocks": [{"line": n, "html": …}]}; 413 where the text is too long.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.params import Depends
from fastapi.responses import JSONResponse

from . import render

MAX_BYTES = 4 * render.MAX_CHARS
WAITING = 32

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, and asked for again by its ETag
}


@dataclass(frozen=True)
class Asset:
    """A file of the page, as it is sent."""

    body: bytes
    media_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """The page's files by name."""
    folder = resources.files(__package__) / "static"
    found = {}
    for file in folder.iterdir():
        body = file.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        found[file.name] = Asset(body, _TYPES[file.name.rsplit(".", 1)[-1]], etag)
    return found


def router(dependencies: Sequence[Depends] = ()) -> APIRouter:
    """The routes. `dependencies` guard what costs work (the rendering), as they guard the API."""
    routes = APIRouter(include_in_schema=False)
    renderer = Renderer()
    routes.add_api_route("/", _index, methods=["GET", "HEAD"])
    routes.add_api_route("/page/assets/{name}", _asset, methods=["GET", "HEAD"])
    routes.add_api_route("/page/render", renderer.answer, methods=["POST"], dependencies=list(dependencies))
    return routes


async def _index(request: Request) -> Response:
    return _sent(assets()["index.html"], request)


async def _asset(name: str, request: Request) -> Response:
    asset = assets().get(name)
    return _sent(asset, request) if asset else _error(404, "the page has no such file")


def _sent(asset: Asset, request: Request) -> Response:
    headers = {**_HEADERS, "ETag": asset.etag}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.media_type, headers=headers)


class Renderer:
    """Renders in one thread of its own, so that long texts wait for each other and nobody else waits."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="page-render")
        self._waiting = 0

    async def answer(self, request: Request) -> Response:
        """POST /page/render."""
        body = await _body(request)
        if body is None:
            return _error(413, f"a text to render has at most {MAX_BYTES} bytes")
        try:
            text = json.loads(body)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str):
            return _error(400, 'the body is to be {"text": "…"}')
        return await self._rendered(text)

    async def _rendered(self, text: str) -> Response:
        text = text.encode("utf-8", "replace").decode()  # JSON can spell half a surrogate pair
        if self._waiting >= WAITING:
            return _error(503, "too many texts are waiting to be rendered", {"Retry-After": "1"})
        self._waiting += 1
        try:
            blocks = await asyncio.get_running_loop().run_in_executor(self._pool, render.render, text)
        except ValueError as error:
            return _error(413, str(error))
        finally:
            self._waiting -= 1
        content: dict[str, Any] = {"blocks": [asdict(block) for block in blocks]}
        return JSONResponse(
            content, headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        )


async def _body(request: Request) -> bytes | None:
    """The body, or None where it is longer than `MAX_BYTES`; no more than that is ever held."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            return None
    return bytes(body)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status, headers)
