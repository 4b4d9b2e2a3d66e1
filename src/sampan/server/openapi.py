"""What `/openapi.json` says: which answers an endpoint gives, and that it asks for a key.

Contract: an endpoint declares the statuses that it answers with and no others, each with the body that is
really sent (a response with 401 is one that asks for a key).
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from sampan.server.schemas import ErrorBody

Responses = dict[int | str, dict[str, Any]]

ASKED = (400, 401, 403, 404, 408, 413, 415, 429, 500, 503)
"""Errors of an endpoint that asks the model."""

SENT = (400, 401, 404, 408, 413, 415, 429, 503)
"""Errors of an endpoint that takes a body which names a model, and does not ask it."""

STREAM: Responses = {200: {"content": {"text/event-stream": {}}}}
"""The answer where `stream` is true: events, whose data is JSON."""

_STATUSES = {
    400: "The request cannot be served as asked; the error names the field.",
    401: "The key is missing, wrong, revoked or expired.",
    403: "This key may not use this model.",
    404: "There is no such thing here.",
    408: "The body did not come in time.",
    409: "It is there already.",
    413: "The body is too large.",
    415: "The body is packed in a way that is not taken; `Accept-Encoding` says which are.",
    429: "A limit of this key is reached.",
    500: "The engine failed at this request.",
    503: "The service cannot answer now: its queue is full, or a part of it is not there.",
}
_RETRY_AFTER = {
    "description": "Seconds after which it makes sense to ask again, where waiting helps.",
    "schema": {"type": "integer", "minimum": 1},
}
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key, as OpenAI's clients send it."},
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "A key, as Anthropic's clients send it.",
    },
    "api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "api-key",
        "description": "A key, in the header of Azure's API.",
    },
}


def errors(*statuses: int, form: type[BaseModel] = ErrorBody) -> Responses:
    """These errors, with a body of this form."""
    rows: Responses = {status: {"model": form, "description": _STATUSES[status]} for status in statuses}
    for status in {429, 503} & rows.keys():
        rows[status]["headers"] = {"Retry-After": _RETRY_AFTER}
    return rows


class Application(FastAPI):
    """An application whose document is true. `asks`: whether clients must show a key, now."""

    def __init__(self, *, asks: Callable[[], bool], **given: Any) -> None:
        super().__init__(generate_unique_id_function=lambda route: route.name, **given)
        self._asks = asks
        self._documents: dict[bool, dict[str, Any]] = {}

    def openapi(self) -> dict[str, Any]:
        """The document; made when it is first asked for."""
        asks = self._asks()
        if asks not in self._documents:
            self._documents[asks] = _corrected(deepcopy(super().openapi()), asks)
        return self._documents[asks]


def _corrected(document: dict[str, Any], keys: bool) -> dict[str, Any]:
    """Without the 422 of the framework, which is a 400 here, and with keys."""
    for operation in _operations(document):
        operation["responses"].pop("422", None)
        if "401" in operation["responses"]:
            operation["security"] = [{name: []} for name in _SCHEMES] + ([] if keys else [{}])
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    document["components"]["securitySchemes"] = _SCHEMES
    return document


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()
