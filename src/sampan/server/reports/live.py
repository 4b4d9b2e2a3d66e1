"""`GET /page/live`: how the service does now, and what it has cost since its start, for the page."""

import time

from fastapi import APIRouter
from pydantic import BaseModel

from sampan.server.door import Caller_, Service_
from sampan.server.openapi import errors
from sampan.server.reports.usage import Sums, sums
from sampan.server.storage.usage_table import Counts
from sampan.server.watch.state import Load

router = APIRouter()


class Live(BaseModel):
    """The whole service, whoever asks. `tokens_per_second`: of answers, over the last seconds.

    `cache_used`, `prefix_hit_rate`: parts of 1, the second null before anything was looked up. `requests`,
    `errors` and `cost` count from the start of this process.
    """

    running: int
    waiting: int
    tokens_per_second: float
    cache_used: float
    prefix_hit_rate: float | None
    requests: int
    errors: int
    uptime_s: float
    cost: Sums


@router.get("/page/live", operation_id="live", responses=errors(401))
async def live(service: Service_, caller: Caller_) -> Live:  # noqa: ARG001
    """Numbers to plot."""
    observer, load, now = service.observer, Load.of(service), time.monotonic()
    counts = observer.metrics.counts
    observer.meter.look(now)
    used = Counts(
        requests=counts.requests,
        prompt_tokens=counts.prompt_tokens,
        cached_tokens=counts.cached_tokens,
        completion_tokens=counts.generation_tokens,
        seconds=observer.meter.busy_s,
    )
    return Live(
        running=load.running,
        waiting=load.waiting,
        tokens_per_second=observer.metrics.tokens.at(now),
        cache_used=load.cache_used,
        prefix_hit_rate=load.prefix_hit_rate,
        requests=counts.requests,
        errors=sum(counts.errors.values()),
        uptime_s=round(now - observer.started, 3),
        cost=sums(service, used),
    )
