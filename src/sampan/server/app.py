"""The application: routes, the answers to errors, and what every request passes through."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from sampan.core.errors import ContextOverflow, SampanError
from sampan.server import administration, rerank
from sampan.server.anthropic import messages
from sampan.server.anthropic import replies as anthropic
from sampan.server.coding import TAKEN
from sampan.server.errors import ApiError, bad_request
from sampan.server.guard import Guard
from sampan.server.heads import Heads
from sampan.server.health import router as health
from sampan.server.names import Names
from sampan.server.openai import chat, completions, embeddings, models, responses
from sampan.server.openai.replies import error_row
from sampan.server.openai.responses_store import ResponseStore
from sampan.server.openapi import Application
from sampan.server.origins import ANY, pattern
from sampan.server.page.routes import router as page
from sampan.server.reports import live, metrics, usage
from sampan.server.service import Service
from sampan.server.validation import invalid
from sampan.server.watch import logs

log = logging.getLogger("sampan.server")


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a service."""
    from importlib.metadata import version

    app = Application(
        asks=lambda: service.admission.asks,
        title="Sampan",
        version=version("sampan"),
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.state.responses = ResponseStore()
    for module in (chat, completions, responses, embeddings, rerank, models, messages):
        app.include_router(module.router)
    app.include_router(health)
    for router in (metrics.router, usage.router, live.router, administration.router):
        app.include_router(router)
    app.include_router(page())
    app.add_exception_handler(SampanError, _sampan_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)
    _stand_guard(app, service)
    return app


def _stand_guard(app: FastAPI, service: Service) -> None:
    """What every request passes, the last one first."""
    settings = service.settings
    app.add_middleware(Heads)
    caller, most = service.admission.caller, service.texts.most_body
    app.add_middleware(Guard, caller=caller, refuse=rendered, most=most, seconds=settings.body_s)
    origins = pattern(settings.cors_origins)
    if settings.cors_origins:
        from fastapi.middleware.cors import CORSMiddleware

        every = [ANY] if ANY in settings.cors_origins else []
        app.add_middleware(
            CORSMiddleware,
            allow_origins=every,
            allow_origin_regex=origins,
            allow_methods=["*"],
            allow_headers=["*"],
        )
    app.add_middleware(
        Names,
        refuse=rendered,
        host=settings.host,
        given=settings.allowed_hosts,
        origins=origins,
    )
    app.add_middleware(logs.Access, ended=service.observer.metrics.ended)


def rendered(error: ApiError, path: str) -> Response:
    """An error as the API of this path writes it."""
    logs.note(error.code or error.kind)
    headers = {} if error.retry_after is None else {"retry-after": str(max(1, round(error.retry_after)))}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status == 415:
        headers["accept-encoding"] = TAKEN
    if path.startswith(messages.router.prefix):
        headers |= anthropic.request_headers()
        return JSONResponse(anthropic.error_row(error), error.status, headers)
    return JSONResponse(error_row(error), error.status, headers)


async def _sampan_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        return rendered(error, request.url.path)
    code = "context_length_exceeded" if isinstance(error, ContextOverflow) else None
    return rendered(bad_request(str(error), code=code), request.url.path)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return rendered(invalid(error), request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ApiError):
        return rendered(error.__cause__, request.url.path)
    message = str(error.detail)
    if error.status_code == 404:
        message = f"there is nothing at {request.url.path[:200]}"
    response = rendered(ApiError(error.status_code, message), request.url.path)
    response.headers.update(error.headers or {})
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    log.exception("a request failed", exc_info=error)
    failure = ApiError(500, "the service failed at this request; its log says where", kind="server_error")
    response = rendered(failure, request.url.path)
    response.headers.update(logs.headers())  # this handler stands outside of every middleware
    return response
