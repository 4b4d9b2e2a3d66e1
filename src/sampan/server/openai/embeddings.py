"""`POST /v1/embeddings`: the families that are served so far continue texts; none of them embeds any."""

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from sampan.core.errors import quoted
from sampan.server.body import JsonRoute
from sampan.server.door import Caller_, Service_
from sampan.server.errors import ApiError, bad_request
from sampan.server.openapi import SENT, errors
from sampan.server.schemas import Body, Many

router = APIRouter(route_class=JsonRoute)


class EmbeddingRequest(Body):
    """Texts, or lists of token ids."""

    model: str
    input: str | Many[str] | Many[int] | Many[Many[int]]
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


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


@router.post("/v1/embeddings", operation_id="create_embeddings", responses=errors(*SENT))
async def create(body: EmbeddingRequest, service: Service_, caller: Caller_) -> EmbeddingList:  # noqa: ARG001
    """Embed texts. A 400 for a model that is not made for it."""
    if body.model not in service.models:
        raise ApiError(
            404, f"the model {quoted(body.model)} is not served here", code="model_not_found", param="model"
        )
    raise bad_request(
        f"{body.model} is no embedding model: it answers on /v1/chat/completions and /v1/completions",
        param="model",
        code="unsupported_model",
    )
