"""`POST /v1/responses`, and what was stored of them."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from sampan.core.errors import quoted
from sampan.server.ask import Caller, Usage
from sampan.server.body import JsonRoute
from sampan.server.door import Caller_, Service_
from sampan.server.errors import ApiError, bad_request
from sampan.server.openai.responses_asks import ask_of, check_results, numbered
from sampan.server.openai.responses_events import Reply
from sampan.server.openai.responses_replies import ItemList, ResponseDeleted, ResponseDocument
from sampan.server.openai.responses_schemas import ItemQuery, NoQuery, ResponseRequest
from sampan.server.openai.responses_store import ResponseStore, Stored
from sampan.server.openapi import ASKED, STREAM, errors
from sampan.server.sse import EventStream, unless_gone

router = APIRouter(prefix="/v1/responses", route_class=JsonRoute)


def store_of(request: Request) -> ResponseStore:
    """What this application has kept."""
    store: ResponseStore = request.app.state.responses
    return store


Store_ = Annotated[ResponseStore, Depends(store_of)]


@router.post(
    "",
    operation_id="create_response",
    response_model=ResponseDocument,
    responses=errors(*ASKED) | STREAM,
)
async def create(
    body: ResponseRequest, request: Request, service: Service_, caller: Caller_, store: Store_
) -> Response:
    """Answer a conversation; with `stream`, as server-sent events. Kept unless `store` is false."""
    items = numbered(body.input, lambda name: store.item(caller, name))
    before = _before(store, caller, body.previous_response_id)
    check_results(items, before)
    ask = await ask_of(body, [*before, *items], service, caller)
    usage = Usage(len(ask.ids))

    def keep(document: dict[str, Any]) -> None:
        store.put(caller, Stored(document, items, before))

    reply = Reply(body, ask.sampling, service.text, None if body.store is False else keep)
    parts = service.answer(ask, caller, usage)
    headers = service.headers(caller)
    if body.stream:
        frames = reply.frames(await service.opened(request, parts), usage)
        return EventStream(frames, write_s=service.settings.write_s, headers=headers)
    return JSONResponse(await unless_gone(request, reply.whole(parts, usage)), headers=headers)


@router.get(
    "/{response_id}",
    operation_id="show_response",
    response_model=ResponseDocument,
    responses=errors(400, 401, 404),
)
async def show(
    response_id: str,
    query: Annotated[NoQuery, Query()],  # noqa: ARG001
    caller: Caller_,
    store: Store_,
) -> Response:
    """A response that was stored."""
    return JSONResponse(_found(store, caller, response_id).document)


@router.delete("/{response_id}", operation_id="delete_response", responses=errors(401, 404))
async def delete(response_id: str, caller: Caller_, store: Store_) -> ResponseDeleted:
    """Forget a response."""
    if not store.remove(caller, response_id):
        raise _missing(response_id)
    return ResponseDeleted(id=response_id, object="response", deleted=True)


@router.get(
    "/{response_id}/input_items",
    operation_id="list_input_items",
    response_model=ItemList,
    responses=errors(400, 401, 404),
)
async def list_items(
    response_id: str, query: Annotated[ItemQuery, Query()], caller: Caller_, store: Store_
) -> Response:
    """What a response was asked with; not what the responses before it were."""
    rows = list(_found(store, caller, response_id).items)
    if query.order == "desc":
        rows.reverse()
    if query.after is not None:
        places = [place for place, row in enumerate(rows) if row["id"] == query.after]
        if not places:
            raise bad_request(f"after names {quoted(query.after)}, which is no item here", param="after")
        rows = rows[places[0] + 1 :]
    page = rows[: query.limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else dict.fromkeys(_ENDS)
    return JSONResponse({"object": "list", "data": page, **ends, "has_more": len(page) < len(rows)})


_ENDS = ("first_id", "last_id")


def _before(store: ResponseStore, caller: Caller, name: str | None) -> list[Any]:
    if name is None:
        return []
    stored = store.get(caller, name)
    if stored is None:
        raise bad_request(
            f"the response {quoted(name)} is not here: it was not stored, or it is too long ago",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return stored.conversation


def _found(store: ResponseStore, caller: Caller, name: str) -> Stored:
    stored = store.get(caller, name)
    if stored is None:
        raise _missing(name)
    return stored


def _missing(name: str) -> ApiError:
    return ApiError(
        404, f"there is no response {quoted(name)}", code="response_not_found", param="response_id"
    )
