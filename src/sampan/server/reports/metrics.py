"""`GET /metrics`, for whoever may reach the port."""

from fastapi import APIRouter, Request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.responses import PlainTextResponse, Response

from sampan.server.service import Service

router = APIRouter()


@router.get("/metrics", operation_id="metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Every metric, in the Prometheus text format."""
    service: Service = request.app.state.service
    body = generate_latest(service.observer.metrics.registry)
    return Response(body, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})
