"""`GET /v1/usage`: what a key has used, what that cost here, and what it would have cost elsewhere."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, WithJsonSchema

from sampan.core.errors import StorageError
from sampan.server.door import Caller_, Service_
from sampan.server.errors import ApiError, bad_request
from sampan.server.openapi import errors
from sampan.server.reports.prices import PRICES
from sampan.server.storage.usage_table import Counts, Filter, Totals

router = APIRouter()
log = logging.getLogger("sampan.ledger")


class Published(BaseModel):
    """The same tokens at a published API price: US dollars, and the price for a million tokens.

    `cached`: of prompt tokens that were not computed again, null where there is no such price. `date`: when
    it held.
    """

    model: str
    usd: float
    input: float
    cached: float | None
    output: float
    source: str
    date: str | None


class Cost(BaseModel):
    """`machine_usd`: the share of the machine's busy time at `price_per_hour`; null where none is set."""

    price_per_hour: float | None
    machine_usd: float | None
    published: list[Published]


class Sums(BaseModel):
    """Tokens: cached ones are part of the prompt's, reasoning of the completion's.

    `machine_seconds`: the machine's busy time, each moment split evenly among the requests that ran in it.
    `joules`: what so much busy time takes at the mean power since the service started; null where the machine
    reports none.
    """

    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    total_tokens: int
    machine_seconds: float
    joules: float | None
    cost: Cost


class ModelSums(Sums):
    """The same of one model or adapter."""

    model: str


class UsageReport(BaseModel):
    """`key`: the id of the caller's key, null where none are asked for: then it is everybody's usage.

    Hours that touch `since` … `until` count whole.
    """

    object: Literal["usage"]
    key: str | None
    since: datetime | None
    until: datetime | None
    total: Sums
    models: list[ModelSums]


_MOMENT = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "date"},
        {"type": "number"},
    ],
    "description": "ISO 8601 (UTC unless it says), or seconds since 1970.",
}
Moment = Annotated[datetime, WithJsonSchema(_MOMENT)]


class UsageQuery(BaseModel):
    """Which part of the usage."""

    model_config = ConfigDict(extra="forbid")

    since: Moment | None = None
    until: Moment | None = None


@router.get("/v1/usage", operation_id="usage", responses=errors(400, 401, 503))
async def usage(service: Service_, caller: Caller_, query: Annotated[UsageQuery, Query()]) -> UsageReport:
    """What the caller's key has used."""
    since, until = _utc(query.since), _utc(query.until)
    start, end = _epoch(since), _epoch(until)
    if start is not None and end is not None and end < start:
        raise bad_request("until is before since", param="until")
    totals = await _totals(service, Filter(start, end, caller.key))
    models: dict[str, Counts] = {}
    for (_, model), counts in totals.items():
        models[model] = models.get(model, Counts()) + counts
    rows = [
        ModelSums(model=name, **sums(service, counts).model_dump()) for name, counts in sorted(models.items())
    ]
    total = sums(service, sum(models.values(), Counts()))
    return UsageReport(object="usage", key=caller.key, since=since, until=until, total=total, models=rows)


async def _totals(service: Service_, wanted: Filter) -> Totals:
    try:
        return await asyncio.to_thread(service.admission.ledger.totals, wanted)
    except StorageError as error:
        log.error("usage cannot be read: %s", error)
        message = "usage cannot be read now; nothing is lost, ask again"
        raise ApiError(503, message, kind="server_error", code="ledger_unavailable", retry_after=5) from error


def sums(service: Service_, counts: Counts) -> Sums:
    """Counts with what they cost."""
    return Sums(
        requests=counts.requests,
        prompt_tokens=counts.prompt_tokens,
        cached_tokens=counts.cached_tokens,
        completion_tokens=counts.completion_tokens,
        reasoning_tokens=counts.reasoning_tokens,
        total_tokens=counts.tokens,
        machine_seconds=round(counts.seconds, 3),
        joules=service.observer.meter.joules_in(counts.seconds),
        cost=_cost(service.settings.price_per_hour, counts),
    )


def _cost(price_per_hour: float | None, counts: Counts) -> Cost:
    tokens = counts.prompt_tokens, counts.cached_tokens, counts.completion_tokens
    published = [
        Published(
            model=price.model,
            usd=price.of(*tokens),
            input=price.input,
            cached=price.cached,
            output=price.output,
            source=price.source,
            date=price.date,
        )
        for price in PRICES
    ]
    machine = None if price_per_hour is None else counts.seconds / 3600 * price_per_hour
    return Cost(price_per_hour=price_per_hour, machine_usd=machine, published=published)


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _epoch(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
