"""`GET /v1/models`, and tokens to text and back."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from sampan.core.errors import quoted
from sampan.server.body import JsonRoute
from sampan.server.door import Caller_, Service_
from sampan.server.errors import ApiError, bad_request
from sampan.server.openai.asks import template_messages
from sampan.server.openai.schemas import ChatMessage
from sampan.server.openapi import SENT, errors
from sampan.server.schemas import Body, Many
from sampan.server.texts import COUNTED

router = APIRouter(route_class=JsonRoute)


class ModelRow(BaseModel):
    """A model that can be asked. `max_model_len`: tokens of the longest prompt with its answer."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None


class ModelList(BaseModel):
    """Every model that can be asked."""

    object: Literal["list"]
    data: list[ModelRow]


class TokenizeRequest(Body):
    """Either a text or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[Many[ChatMessage], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None


class Tokens(BaseModel):
    """Token ids and how many."""

    tokens: list[int]
    count: int
    max_model_len: int | None


class DetokenizeRequest(Body):
    """Token ids."""

    model: str | None = None
    tokens: Many[int]


class Text(BaseModel):
    """What the tokens say, control tokens included."""

    prompt: str


@router.get("/v1/models", operation_id="list_models", responses=errors(401))
async def list_models(service: Service_, caller: Caller_) -> ModelList:  # noqa: ARG001
    """What can be asked."""
    return ModelList(object="list", data=[_row(service, name) for name in service.models])


@router.get("/v1/models/{model:path}", operation_id="show_model", responses=errors(401, 404))
async def show_model(
    model: Annotated[str, Path()],
    service: Service_,
    caller: Caller_,  # noqa: ARG001
) -> ModelRow:
    """One of them."""
    _check(service, model)
    return _row(service, model)


@router.post("/tokenize", operation_id="tokenize", response_model=Tokens, responses=errors(*SENT))
async def tokenize(body: TokenizeRequest, service: Service_, caller: Caller_) -> Response:
    """The ids of a text, or of the prompt that a conversation becomes."""
    _check(service, body.model)
    service.admission.count(caller)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("give either prompt or messages", param="prompt")
    if body.messages is not None:
        if body.add_special_tokens is not None:
            raise bad_request(
                "add_special_tokens is for a prompt: of messages, the template says what is special",
                param="add_special_tokens",
            )
        ids, _ = await service.texts.rendered(template_messages(body.messages), caller, contexts=COUNTED)
    else:
        special = body.add_special_tokens is not False
        [ids] = await service.texts.encoded([body.prompt or ""], caller, special=special, contexts=COUNTED)
    row = {"tokens": ids.tolist(), "count": len(ids), "max_model_len": service.context}
    return JSONResponse(row)  # not validated again: there may be very many


@router.post("/detokenize", operation_id="detokenize", responses=errors(*SENT))
async def detokenize(body: DetokenizeRequest, service: Service_, caller: Caller_) -> Text:
    """The text of token ids."""
    _check(service, body.model)
    service.admission.count(caller)
    return Text(prompt=await service.texts.decoded(body.tokens, caller))


def _check(service: Service_, name: str | None) -> None:
    if name is not None and name not in service.models:
        raise ApiError(
            404, f"the model {quoted(name)} is not served here", code="model_not_found", param="model"
        )


def _row(service: Service_, name: str) -> ModelRow:
    row: dict[str, Any] = {"id": name, "object": "model", "created": service.started, "owned_by": "sampan"}
    return ModelRow(**row, max_model_len=service.context)
