"""`POST /v1/chat/completions`."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from sampan.server.ask import Ask, Caller, CallPart, Part, Usage
from sampan.server.body import JsonRoute
from sampan.server.collect import Answer, Run, collected
from sampan.server.door import Caller_, Service_
from sampan.server.errors import ApiError, bad_request
from sampan.server.openai.asks import (
    check_scored,
    sampling_of,
    scoring_of,
    template_messages,
    thinking_of,
    tools_of,
)
from sampan.server.openai.constraints import constraint_of
from sampan.server.openai.replies import (
    ChatCompletion,
    chat_logprobs,
    error_event,
    prompt_rows,
    text_json,
    usage_row,
)
from sampan.server.openai.schemas import ChatRequest
from sampan.server.openapi import ASKED, STREAM, errors
from sampan.server.service import Service
from sampan.server.sse import EventStream, unless_gone

router = APIRouter(route_class=JsonRoute)


@router.post(
    "/v1/chat/completions",
    operation_id="create_chat_completion",
    response_model=ChatCompletion,
    responses=errors(*ASKED) | STREAM,
)
async def create(body: ChatRequest, request: Request, service: Service_, caller: Caller_) -> Response:
    """Answer a conversation; with `stream`, as server-sent events."""
    ask = await ask_of(body, service, caller)
    usage = Usage(len(ask.ids))
    parts = service.answer(ask, caller, usage)
    reply = _Reply(body, service)
    headers = service.headers(caller)
    if body.stream:
        frames = reply.frames(await service.opened(request, parts), usage)
        return EventStream(frames, write_s=service.settings.write_s, headers=headers)
    return JSONResponse(await unless_gone(request, reply.whole(parts, usage, ask.n)), headers=headers)


async def ask_of(body: ChatRequest, service: Service, caller: Caller) -> Ask:
    """The request as an ask; `ApiError` for what contradicts itself or is not served."""
    if body.top_logprobs and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs to be true", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream to be true", param="stream_options")
    scoring = scoring_of(body)
    if body.max_completion_tokens is not None:
        if body.max_tokens not in (None, body.max_completion_tokens):
            raise bad_request(
                "max_tokens is the old name of max_completion_tokens: give one", param="max_tokens"
            )
        body.max_tokens = body.max_completion_tokens
    wanted = (body.top_logprobs or 0) if body.logprobs else None
    field, grammar = constraint_of(body)
    tools = tools_of(body)
    thinking = thinking_of(body, service)
    ask = await service.conversation(
        template_messages(body.messages),
        replace(sampling_of(body, service.text, logprobs=wanted), max_reasoning_tokens=thinking.budget),
        caller,
        model=body.model,
        n=body.n or 1,
        grammar=grammar,
        tools=tools,
        variables=thinking.variables,
    )
    check_scored(body, len(ask.ids))
    return replace(ask, cache_salt=body.cache_salt, scoring=scoring, constraint=field)


class _Reply:
    """One chat completion on its way out."""

    def __init__(self, body: ChatRequest, service: Service) -> None:
        self._tokenizer = service.text.tokenizer
        self._body = body
        self._head = {
            "id": f"chatcmpl-{uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": service.fingerprint,
        }
        start = json.dumps({**self._head, "object": "chat.completion.chunk"})
        self._start = f"data: {start[:-1]}, "

    async def whole(self, parts: AsyncIterator[Part], usage: Usage, n: int) -> dict[str, Any]:
        answers = await collected(parts, n)
        rows = [_choice(index, answer, self._logprobs(answer.tokens)) for index, answer in enumerate(answers)]
        reply = {**self._head, "object": "chat.completion", "choices": rows, "usage": usage_row(usage)}
        if self._body.prompt_logprobs is None:
            return reply
        return reply | {"prompt_logprobs": prompt_rows(self._tokenizer, answers[0].scores)}

    async def frames(self, parts: AsyncIterator[Part], usage: Usage) -> AsyncIterator[bytes]:
        options = self._body.stream_options
        with_usage = options is not None and bool(options.include_usage)
        greeted: set[int] = set()
        try:
            async with aclosing(parts):  # type: ignore[type-var]
                async for part in parts:
                    if part.index not in greeted:
                        greeted.add(part.index)
                        yield self._frame(part.index, '{"role": "assistant", "content": ""}', "null", "null")
                    for frame in self._part(part):
                        yield frame
        except ApiError as error:
            yield error_event(error)
            return
        if with_usage:
            yield f'{self._start}"choices": [], "usage": {json.dumps(usage_row(usage))}}}\n\n'.encode()
        yield b"data: [DONE]\n\n"

    def _part(self, part: Part) -> list[bytes]:
        """Frames of a part: none for a token whose text is held back, unless logprobs are wanted."""
        logprobs = json.dumps(self._logprobs(part.tokens)) if self._body.logprobs else "null"
        deltas = [_call_delta(call) for call in part.calls]
        if part.reasoning:
            deltas.append(f'{{"reasoning_content": {text_json(part.reasoning)}}}')
        if part.text or (logprobs != "null" and not deltas and not part.finish):
            deltas.append(f'{{"content": {text_json(part.text)}}}')
        frames = []
        for delta in deltas:
            frames.append(self._frame(part.index, delta, logprobs, "null"))
            logprobs = "null"
        if part.finish is not None:
            frames.append(self._frame(part.index, "{}", logprobs, f'"{part.finish}"'))
        return frames

    def _frame(self, index: int, delta: str, logprobs: str, finish: str) -> bytes:
        choice = f'{{"index": {index}, "delta": {delta}, "logprobs": {logprobs}, "finish_reason": {finish}}}'
        return f'{self._start}"choices": [{choice}]}}\n\n'.encode()

    def _logprobs(self, tokens: Any) -> dict[str, Any] | None:
        return chat_logprobs(self._tokenizer, tokens) if self._body.logprobs else None


def _choice(index: int, answer: Answer, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [_call_row(call) for call in answer.calls]
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish}


def _call_row(call: Run) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text}}


def _call_delta(call: CallPart) -> str:
    row: dict[str, Any] = {"index": call.index, "function": {"arguments": call.arguments}}
    if call.name is not None:
        row = {
            "index": call.index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
    return json.dumps({"tool_calls": [row]}, ensure_ascii=False)
