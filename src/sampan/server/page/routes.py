"""The page's routes: its files, and Markdown rendered for it.

`GET /`, `GET /page/assets/{name}` need no key: they hold nothing of anybody's. `POST /page/render` takes
{"text": …} and gives {"blocks": [{"line": n, "html": …}]}; 413 where the text is too long.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from sampan.server.door import Caller_, Service_
from sampan.server.markdown import render

MAX_BYTES = 4 * render.MAX_CHARS
_A_RENDERING = 1 / 60

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
# What the page says of what is written on it: as it stands in the file, and under --log-prompts.
_KEPT = b"the service writes none of it down"
_LOGGED = b"the service writes it, and the answers, into its log"


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
        found[file.name] = _asset_of(file.read_bytes(), _TYPES[file.name.rsplit(".", 1)[-1]])
    return found


def _asset_of(body: bytes, media_type: str) -> Asset:
    return Asset(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:20]}"')


def router() -> APIRouter:
    """The routes."""
    routes = APIRouter(include_in_schema=False)
    routes.add_api_route("/", _index, methods=["GET"])
    routes.add_api_route("/page/assets/{name}", _asset, methods=["GET"])
    routes.add_api_route("/page/render", _render, methods=["POST"])
    return routes


async def _index(request: Request, service: Service_) -> Response:
    page = assets()["index.html"]
    if service.settings.log_prompts:
        page = _asset_of(page.body.replace(_KEPT, _LOGGED), page.media_type)
    return _sent(page, request)


async def _asset(name: str, request: Request) -> Response:
    asset = assets().get(name)
    return _sent(asset, request) if asset else _error(404, "the page has no such file")


def _sent(asset: Asset, request: Request) -> Response:
    headers = {**_HEADERS, "ETag": asset.etag}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.media_type, headers=headers)


async def _render(request: Request, service: Service_, caller: Caller_) -> Response:
    """POST /page/render. The page asks often while an answer grows: each time is a part of a request."""
    body = await _body(request)
    if body is None:
        return _error(413, f"a text to render has at most {MAX_BYTES} bytes")
    try:
        text = json.loads(body)["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        return _error(400, 'the body is to be {"text": "…"}')
    service.admission.count(caller, _A_RENDERING)
    text = text.encode("utf-8", "replace").decode()  # JSON can spell half a surrogate pair
    content = {"blocks": await service.texts.markdown(text, caller)}
    return JSONResponse(content, headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"})


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
