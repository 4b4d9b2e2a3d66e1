"""`POST /v1/embeddings`: texts as vectors, of a model that is made for it."""

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from sampan.core.types import SamplingParams
from sampan.llm.vectors import check_dimensions, check_embeds, embedding, prompt_named
from sampan.server.ask import Ask, Caller, Ids, Part
from sampan.server.body import JsonRoute
from sampan.server.door import Caller_, Service_
from sampan.server.errors import bad_request
from sampan.server.fields import lacks
from sampan.server.many import MOST, refused, replies, token_ids
from sampan.server.openapi import ASKED, errors
from sampan.server.schemas import Body, Many
from sampan.server.service import Service
from sampan.server.sse import unless_gone

router = APIRouter(route_class=JsonRoute)


class EmbeddingRequest(Body):
    """Texts, or lists of token ids. `prompt_name`: one of the model's prompts, to stand before each text."""

    lacked = (
        lacks("input_type", "task", why="prompt_name says it here")
        | lacks("output_dimension", why="dimensions says it here")
        | lacks("add_special_tokens", "normalize", neutral=(True,))
        | lacks("embedding_types", "late_chunking", "messages", "truncate", "truncate_prompt_tokens")
    )

    model: str
    input: str | Many[str] | Many[int] | Many[Many[int]]
    prompt_name: str | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None


class Embedding(BaseModel):
    """A text as a point; in base64, its little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """One for each text."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


@router.post(
    "/v1/embeddings",
    operation_id="create_embeddings",
    response_model=EmbeddingList,
    responses=errors(*ASKED),
)
async def create(body: EmbeddingRequest, request: Request, service: Service_, caller: Caller_) -> Response:
    """Embed texts. A 400 for a model that is not made for it."""
    service.check_model(body.model)
    purpose = service.text.purpose
    with refused("model", "unsupported_model"):
        check_embeds(purpose, body.model)
    with refused("dimensions"):
        check_dimensions(body.dimensions, service.text.width)
    asks = [
        Ask(ids, SamplingParams(max_tokens=0), body.model, raw=True, pooling=purpose.pooling)
        for ids in await _inputs(body, service, caller)
    ]

    def row(index: int, part: Part) -> str:
        """As JSON at once: all of them together would hold everybody up."""
        values = embedding(part.vector, len(asks[index].ids), purpose, body.dimensions).vector
        numbers: Any = values.tolist()
        if body.encoding_format == "base64":
            numbers = b64encode(values.astype("<f4").tobytes()).decode()
        return json.dumps({"object": "embedding", "index": index, "embedding": numbers})

    rows, tokens = await unless_gone(request, replies(service, asks, caller, row))
    rest = {
        "object": "list",
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    content = f'{json.dumps(rest)[:-1]}, "data": [{", ".join(rows)}]}}'
    return Response(content, media_type="application/json", headers=service.headers(caller))


async def _inputs(body: EmbeddingRequest, service: Service, caller: Caller) -> Sequence[Ids]:
    given: Any = body.input
    single = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    inputs: list[Any] = [given] if single else given
    if not inputs:
        raise bad_request("input is empty: give at least one text", param="input")
    if len(inputs) > MOST:
        raise bad_request(f"{len(inputs)} inputs: at most {MOST} go into one request", param="input")
    if not isinstance(inputs[0], str):
        if body.prompt_name is not None:
            raise bad_request("prompt_name goes before texts, not before token ids", param="prompt_name")
        return [token_ids(ids, service, "input") for ids in inputs]
    with refused("prompt_name"):
        before = prompt_named(service.text.purpose, body.prompt_name)
    return await service.texts.encoded([before + text for text in inputs], caller, closed=True)
