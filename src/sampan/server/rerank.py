"""`POST /v1/rerank`: documents in the order of their relevance, as Jina's API and vLLM have it."""

from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from sampan.core.types import SamplingParams
from sampan.llm.vectors import check_reranks, judging_score, relevance
from sampan.server.ask import Ask, Ids
from sampan.server.body import JsonRoute
from sampan.server.door import Caller_, Service_
from sampan.server.errors import bad_request
from sampan.server.fields import Strict, lacks
from sampan.server.many import MOST, refused, replies
from sampan.server.openapi import ASKED, errors
from sampan.server.schemas import Body, Many
from sampan.server.sse import unless_gone

router = APIRouter(route_class=JsonRoute)


class Document(Strict):
    """A text to judge."""

    text: str


class RerankRequest(Body):
    """A query and documents. `top_n`: how many are told, the best first; `instruction`: what relevant
    means."""

    lacked = lacks("max_tokens_per_doc", "truncate", "truncate_prompt_tokens")

    model: str
    query: str
    documents: Many[str] | Many[Document]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
    instruction: str | None = None


class Ranked(BaseModel):
    """A document by its place in the request. `relevance_score`: from 0 to 1."""

    index: int
    relevance_score: float
    document: Document | None = None


class RerankUsage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(BaseModel):
    """The best first."""

    id: str
    model: str
    results: list[Ranked]
    usage: RerankUsage


@router.post(
    "/v1/rerank", operation_id="create_rerank", response_model=RerankResponse, responses=errors(*ASKED)
)
async def create(body: RerankRequest, request: Request, service: Service_, caller: Caller_) -> Response:
    """Judge documents. A 400 for a model that is not made for it."""
    service.check_model(body.model)
    with refused("model", "unsupported_model"):
        check_reranks(service.text.purpose, body.model)
    texts = [each if isinstance(each, str) else each.text for each in body.documents]
    if not 1 <= len(texts) <= MOST:
        raise bad_request(f"{len(texts)} documents: give 1 to {MOST}", param="documents")
    judging = service.text.judging
    prompts = await service.texts.judgements(body.query, texts, body.instruction, caller)
    asks = [
        Ask(
            Ids("i", [*prompt, judging.yes]),
            SamplingParams(max_tokens=0),
            body.model,
            raw=True,
            scoring=judging_score(prompt, judging),
        )
        for prompt in prompts
    ]
    replied = replies(service, asks, caller, lambda _, part: relevance(part.scores[0]))
    scores, tokens = await unless_gone(request, replied)
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.top_n]
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": scores[i]} for i in order]
    for row in results if body.return_documents else ():
        row["document"] = {"text": texts[row["index"]]}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    content = {"id": f"rerank-{uuid4().hex}", "model": body.model, "results": results, "usage": usage}
    return JSONResponse(content, headers=service.headers(caller))
