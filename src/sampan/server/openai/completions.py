"""`POST /v1/completions`: texts continued as they are, without a chat template."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from sampan.core.types import Scoring, TokenLogprob
from sampan.server.ask import Ask, Caller, Part, Usage
from sampan.server.body import JsonRoute
from sampan.server.door import Caller_, Service_
from sampan.server.errors import ApiError, bad_request
from sampan.server.many import token_ids
from sampan.server.openai.asks import check_scored, sampling_of, scoring_of
from sampan.server.openai.constraints import constraint_of
from sampan.server.openai.echo import Echo
from sampan.server.openai.replies import TextCompletion, error_event, token_text, usage_row
from sampan.server.openai.schemas import CompletionRequest
from sampan.server.openapi import ASKED, STREAM, errors
from sampan.server.service import Service
from sampan.server.sse import EventStream, unless_gone
from sampan.text.tokenizer import Tokenizer

router = APIRouter(route_class=JsonRoute)

_MOST_PROMPTS = 128
_MOST_ANSWERS = 1024


@router.post(
    "/v1/completions",
    operation_id="create_completion",
    response_model=TextCompletion,
    responses=errors(*ASKED) | STREAM,
)
async def create(body: CompletionRequest, request: Request, service: Service_, caller: Caller_) -> Response:
    """Continue one or more texts, or lists of token ids."""
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream to be true", param="stream_options")
    asks, texts = await _asks(body, service, caller)
    usage = Usage(sum(len(ask.ids) for ask in asks))
    parts = service.answer_all(asks, caller, usage)
    reply = _Reply(body, service, asks, texts)
    headers = service.headers(caller)
    if body.stream:
        frames = reply.frames(await service.opened(request, parts), usage)
        return EventStream(frames, write_s=service.settings.write_s, headers=headers)
    count = len(asks) * (body.n or 1)
    return JSONResponse(await unless_gone(request, reply.whole(parts, usage, count)), headers=headers)


async def _asks(
    body: CompletionRequest, service: Service, caller: Caller
) -> tuple[list[Ask], list[str | None]]:
    """What is asked, and the prompts' texts where they were given as texts."""
    sampling = sampling_of(body, service.text, logprobs=body.logprobs)
    if body.max_tokens is None:
        body_tokens = 16  # as this API has always had it
        sampling = sampling_of(
            body.model_copy(update={"max_tokens": body_tokens}), service.text, logprobs=body.logprobs
        )
    scoring = scoring_of(body)
    if sampling.max_tokens == 0 and scoring is None:
        if not body.echo:
            raise bad_request("max_tokens is 0: ask for echo or prompt_logprobs", param="max_tokens")
        scoring = Scoring()
    field, grammar = constraint_of(body)
    prompts = _prompts(body.prompt)
    if len(prompts) > _MOST_PROMPTS:
        raise bad_request(
            f"{len(prompts)} prompts: at most {_MOST_PROMPTS} go into one request", param="prompt"
        )
    if len(prompts) * (body.n or 1) > _MOST_ANSWERS:
        raise bad_request(
            f"{len(prompts)} prompts of n {body.n}: at most {_MOST_ANSWERS} answers come of one request",
            param="n",
        )
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if texts:
        encoded = await service.texts.encoded(texts, caller)
    else:
        encoded = [token_ids(prompt, service, "prompt") for prompt in prompts]
    check_scored(body, sum(map(len, encoded)))
    n, salt = body.n or 1, body.cache_salt
    asks = [
        Ask(
            ids,
            sampling,
            body.model,
            n,
            grammar=grammar,
            constraint=field,
            raw=True,
            cache_salt=salt,
            scoring=scoring,
            continues=service.text.tokenizer.continues(ids),
        )
        for ids in encoded
    ]
    return asks, [prompt if isinstance(prompt, str) else None for prompt in prompts]


def _prompts(prompt: str | list[Any]) -> list[Any]:
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return prompt
    return [prompt]


class _Reply:
    """One text completion on its way out."""

    def __init__(
        self,
        body: CompletionRequest,
        service: Service,
        asks: Sequence[Ask],
        texts: Sequence[str | None],
    ) -> None:
        self._tokenizer = service.text.tokenizer
        self._logprobs = body.logprobs
        self._echoes = [
            Echo(body, self._tokenizer, ask.ids, text)
            for ask, text in zip(asks, texts, strict=True)
            for _ in range(ask.n)
        ]
        self._echoed: set[int] = set()
        self._with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        self._head = {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": service.fingerprint,
        }
        self._offsets: dict[int, int] = {}

    async def whole(self, parts: AsyncIterator[Part], usage: Usage, count: int) -> dict[str, Any]:
        texts: list[list[str]] = [[] for _ in range(count)]
        tokens: list[list[TokenLogprob]] = [[] for _ in range(count)]
        finishes: list[str | None] = [None] * count
        async with aclosing(parts):  # type: ignore[type-var]
            async for part in parts:
                self._echoes[part.index].scores += part.scores
                texts[part.index].append(part.text)
                tokens[part.index] += part.tokens
                finishes[part.index] = part.finish or finishes[part.index]
        choices = [self._choice(i, "".join(texts[i]), tokens[i], finishes[i]) for i in range(count)]
        return {**self._head, "choices": choices, "usage": usage_row(usage)}

    async def frames(self, parts: AsyncIterator[Part], usage: Usage) -> AsyncIterator[bytes]:
        try:
            async with aclosing(parts):  # type: ignore[type-var]
                async for part in parts:
                    text = part.text
                    self._echoes[part.index].scores += part.scores
                    if text or part.finish or (part.tokens and self._logprobs is not None):
                        choice = self._choice(part.index, text, part.tokens, part.finish)
                        yield self._frame({"choices": [choice]})
        except ApiError as error:
            yield error_event(error)
            return
        if self._with_usage:
            yield self._frame({"choices": [], "usage": usage_row(usage)})
        yield b"data: [DONE]\n\n"

    def _frame(self, rest: dict[str, Any]) -> bytes:
        return f"data: {json.dumps({**self._head, **rest}, ensure_ascii=False)}\n\n".encode()

    def _choice(
        self, index: int, text: str, tokens: Sequence[TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        """What an answer has now: the first time with the prompt before it, where that is asked for."""
        first, echo = index not in self._echoed, self._echoes[index]
        self._echoed.add(index)
        choice = {
            "index": index,
            "text": (echo.text if first else "") + text,
            "logprobs": self._rows(index, tokens, echo.rows() if first else None),
            "finish_reason": finish,
        }
        return choice | (echo.prompt_logprobs() if first else {})

    def _rows(
        self, index: int, tokens: Sequence[TokenLogprob], before: dict[str, list[Any]] | None
    ) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        rows: dict[str, list[Any]] = before or {"tokens": [], "token_logprobs": [], "top_logprobs": []}
        rows["tokens"] += [token_text(self._tokenizer, chosen.token) for chosen in tokens]
        rows["token_logprobs"] += [chosen.logprob for chosen in tokens]
        rows["top_logprobs"] += [_top(self._tokenizer, chosen) for chosen in tokens]
        offsets = []
        for text in rows["tokens"]:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(text)
        return {
            **rows,
            "top_logprobs": rows["top_logprobs"] if self._logprobs else None,
            "text_offset": offsets,
        }


def _top(tokenizer: Tokenizer, chosen: TokenLogprob) -> dict[str, float]:
    return {token_text(tokenizer, token): logprob for token, logprob in chosen.top}
