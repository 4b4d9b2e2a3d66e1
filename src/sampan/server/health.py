"""`/health`: the service lives. `/ready`: it answers, as a token that came lately shows."""

import time
from contextlib import aclosing
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from sampan.core.types import SamplingParams
from sampan.server.ask import Ask, Ids
from sampan.server.door import Service_
from sampan.server.errors import ApiError

router = APIRouter()

_FRESH_S = 30.0
_PROBE_S = 5.0
_SILENT_S = 2.0  # it says something four times a second


class Health(BaseModel):
    """`engine`: whether its process runs. `restarts`: of it, since the start."""

    status: Literal["ok"]
    engine: Literal["ready", "starting"]
    restarts: int


class Readiness(BaseModel):
    """`last_token_s`: seconds since the engine last gave a token. `reason`: why it is not ready."""

    ready: bool
    last_token_s: float | None
    reason: str | None


@router.get("/health", operation_id="health")
async def health(service: Service_) -> Health:
    """This process answers; the engine may be starting."""
    supervisor = service.supervisor
    return Health(
        status="ok",
        engine="ready" if supervisor.ready is not None else "starting",
        restarts=supervisor.restarts,
    )


@router.get(
    "/ready",
    operation_id="ready",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "No token came; `reason` says why."}},
)
async def ready(service: Service_) -> Response:
    """200 if a token came in the last 30 s, or comes now; 503 otherwise."""
    reason = None
    if service.draining:
        reason = "the service is going down"
    elif service.supervisor.ready is None:
        reason = f"the engine is not there: {service.supervisor.failure or 'it is starting'}"
    elif (silent := time.monotonic() - service.supervisor.heard) > _SILENT_S:
        reason = f"the engine has not been heard for {silent:.1f} s"
    elif (age := _age(service)) is None or age > _FRESH_S:
        reason = await _probe(service)
    body = Readiness(ready=reason is None, last_token_s=_age(service), reason=reason)
    return JSONResponse(body.model_dump(), 200 if reason is None else 503)


def _age(service: Service_) -> float | None:
    last = service.supervisor.last_token
    return None if last is None else round(time.monotonic() - last, 3)


async def _probe(service: Service_) -> str | None:
    """Ask for one token, or one vector; why none came."""
    import asyncio

    pooling = service.text.purpose.pooling
    sampling = SamplingParams(max_tokens=0 if pooling else 1, temperature=0, ignore_eos=True)
    ask = Ask(Ids("i", [0]), sampling, service.text.name, raw=True, pooling=pooling)
    try:
        async with asyncio.timeout(_PROBE_S), aclosing(service.probe(ask)) as parts:  # type: ignore[type-var]
            async for _ in parts:
                return None
    except ApiError as error:
        return error.message
    except TimeoutError:
        return f"no token came in {_PROBE_S:g} s"
    return "the engine gave no token"
