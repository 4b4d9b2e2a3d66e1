"""`POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from sampan.core.errors import quoted
from sampan.server.anthropic.asks import ask_of, check_thread, template_messages, thinking_of, tools_of
from sampan.server.anthropic.replies import (
    SIGNATURE,
    MessageAnswer,
    MessagesError,
    TokenCount,
    block,
    ending,
    error_row,
    event,
    request_headers,
    usage_row,
)
from sampan.server.anthropic.schemas import CountRequest, MessagesRequest
from sampan.server.ask import Part, Usage
from sampan.server.body import JsonRoute
from sampan.server.collect import Answer, Run, Step, collected
from sampan.server.door import Caller_, Service_
from sampan.server.errors import ApiError
from sampan.server.openapi import ASKED, SENT, STREAM, errors
from sampan.server.sse import EventStream, unless_gone
from sampan.server.texts import COUNTED

router = APIRouter(prefix="/v1/messages", route_class=JsonRoute)

_DELTAS = {"reasoning": ("thinking_delta", "thinking"), "text": ("text_delta", "text"),
           "call": ("input_json_delta", "partial_json")}  # fmt: skip
_EMPTY: dict[str, dict[str, Any]] = {
    "reasoning": {"thinking": "", "signature": ""},
    "text": {"text": ""},
    "call": {"input": {}},
}


@router.post(
    "",
    operation_id="create_message",
    response_model=MessageAnswer,
    responses=errors(*ASKED, form=MessagesError) | STREAM,
)
async def create(body: MessagesRequest, request: Request, service: Service_, caller: Caller_) -> Response:
    """Answer a conversation; with `stream`, as server-sent events."""
    ask = await ask_of(body, service, caller)
    usage = Usage(len(ask.ids))
    parts = service.answer(ask, caller, usage)
    reply = Reply(body.model, body.max_tokens)
    headers = {**service.headers(caller), **request_headers()}
    if body.stream:
        frames = reply.frames(await service.opened(request, parts), usage)
        return EventStream(frames, write_s=service.settings.write_s, headers=headers)
    return JSONResponse(await unless_gone(request, reply.whole(parts, usage)), headers=headers)


@router.post("/count_tokens", operation_id="count_tokens", responses=errors(*SENT, form=MessagesError))
async def count_tokens(body: CountRequest, service: Service_, caller: Caller_) -> TokenCount:
    """How many tokens the prompt of this conversation has."""
    if body.model not in service.models:
        raise ApiError(
            404, f"the model {quoted(body.model)} is not served here", code="model_not_found", param="model"
        )
    check_thread(body.thread)
    service.admission.count(caller)
    tools = tools_of(body)
    ids, _ = await service.texts.rendered(
        template_messages(body),
        caller,
        tools=() if tools is None else tools.callable,
        variables=thinking_of(body, service).variables,
        contexts=COUNTED,
    )
    return TokenCount(input_tokens=len(ids))


class Reply:
    """One message on its way out."""

    def __init__(self, model: str, max_tokens: int) -> None:
        self._head = {"id": f"msg_{uuid4().hex}", "type": "message", "role": "assistant", "model": model}
        self._max_tokens = max_tokens

    async def whole(self, parts: AsyncIterator[Part], usage: Usage) -> dict[str, Any]:
        """The message."""
        [answer] = await collected(parts)
        content = [block(run) for run in answer.runs]
        end = ending(answer, usage, self._max_tokens)
        return {**self._head, "content": content, **end, "usage": usage_row(usage)}

    async def frames(self, parts: AsyncIterator[Part], usage: Usage) -> AsyncIterator[bytes]:
        """The message as events. An error that comes late is the last of them."""
        answer = Answer()
        started = False
        try:
            async with aclosing(parts):  # type: ignore[type-var]
                async for part in parts:
                    if not started:
                        started = True
                        yield self._start(usage)
                        yield event("ping", {})
                    for step in answer.take(part):
                        yield _frame(step)
        except ApiError as error:
            yield event("error", error_row(error))
            return
        end = ending(answer, usage, self._max_tokens)
        yield event("message_delta", {"delta": end, "usage": usage_row(usage)})
        yield event("message_stop", {})

    def _start(self, usage: Usage) -> bytes:
        rest: dict[str, Any] = {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_row(usage),
        }
        return event("message_start", {"message": {**self._head, **rest}})


def _frame(step: Step) -> bytes:
    run = step.run
    if step.what == "open":
        start = {**block(run), **_EMPTY[run.kind]}
        return event("content_block_start", {"index": run.place, "content_block": start})
    if step.what == "more":
        kind, name = _DELTAS[run.kind]
        return _delta(run, {"type": kind, name: step.text})
    signed = (
        _delta(run, {"type": "signature_delta", "signature": SIGNATURE}) if run.kind == "reasoning" else b""
    )
    return signed + event("content_block_stop", {"index": run.place})


def _delta(run: Run, delta: dict[str, Any]) -> bytes:
    return event("content_block_delta", {"index": run.place, "delta": delta})
