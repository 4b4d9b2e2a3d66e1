"""One response on its way out, whole or as the events that OpenAI streams."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from sampan.core.types import SamplingParams
from sampan.server.ask import Part, Usage
from sampan.server.collect import Answer, Run, Step, collected
from sampan.server.errors import ApiError
from sampan.server.fields import Skipped
from sampan.server.openai.namespaces import Namespaces
from sampan.server.openai.responses_asks import with_encrypted, with_logprobs
from sampan.server.openai.responses_replies import Items, usage_row
from sampan.server.openai.responses_schemas import ResponseRequest, Status
from sampan.server.openai.schemas import dumped
from sampan.server.text import ModelText

Keep = Callable[[dict[str, Any]], None]


class Reply:
    """`sampling`: what the answer is chosen with. `keep` gets the finished document."""

    def __init__(
        self, body: ResponseRequest, sampling: SamplingParams, text: ModelText, keep: Keep | None
    ) -> None:
        name = uuid4().hex
        self._head = _head(body, sampling, name)
        self._items = Items(
            text,
            name,
            Namespaces(body),
            logprobs=with_logprobs(body),
            encrypted=with_encrypted(body),
        )
        self._keep = keep
        self._number = -1

    async def whole(self, parts: AsyncIterator[Part], usage: Usage) -> dict[str, Any]:
        """The response."""
        [answer] = await collected(parts)
        answer.silence()
        return self._finished(answer, usage)

    async def frames(self, parts: AsyncIterator[Part], usage: Usage) -> AsyncIterator[bytes]:
        """The response as events. An error that comes late makes it a failed one."""
        answer = Answer()
        try:
            yield self._event("response.created", {"response": self._head})
            yield self._event("response.in_progress", {"response": self._head})
            async with aclosing(parts):  # type: ignore[type-var]
                async for part in parts:
                    for step in answer.take(part):
                        for frame in self._step(step, answer):
                            yield frame
            for step in answer.silence():
                for frame in self._step(step, answer):
                    yield frame
        except ApiError as error:
            failure = {"code": error.code or error.kind, "message": error.message}
            document = self._document(answer, usage, status="failed", error=failure)
            yield self._event("response.failed", {"response": document})
            return
        document = self._finished(answer, usage)
        yield self._event(f"response.{document['status']}", {"response": document})

    def _finished(self, answer: Answer, usage: Usage) -> dict[str, Any]:
        cut = answer.finish == "length"
        rest: dict[str, Any] = {"status": "incomplete" if cut else "completed"}
        if cut:
            rest["incomplete_details"] = {"reason": "max_output_tokens"}
        document = self._document(answer, usage, completed_at=int(time.time()), **rest)
        if self._keep is not None:
            self._keep(document)
        return document

    def _document(self, answer: Answer, usage: Usage, **rest: Any) -> dict[str, Any]:
        output = [self._items.item(run, _status(run, answer)) for run in answer.runs]
        return {**self._head, "output": output, "usage": usage_row(usage), **rest}

    def _step(self, step: Step, answer: Answer) -> Iterator[bytes]:
        run = step.run
        if step.what == "open":
            item = self._items.item(run, "in_progress", empty=True)
            yield self._event("response.output_item.added", {"output_index": run.place, "item": item})
            if run.kind != "call":
                yield self._of("content_part.added", run, part=self._items.part(run, empty=True))
        elif step.what == "more":
            yield self._more(step)
        else:
            yield self._done(run)
            if run.kind != "call":
                yield self._of("content_part.done", run, part=self._items.part(run))
            item = self._items.item(run, _status(run, answer))
            yield self._event("response.output_item.done", {"output_index": run.place, "item": item})

    def _more(self, step: Step) -> bytes:
        run = step.run
        if run.kind == "text":
            logprobs = self._items.logprobs(step.tokens)
            return self._of("output_text.delta", run, delta=step.text, logprobs=logprobs)
        name = "reasoning_text" if run.kind == "reasoning" else "function_call_arguments"
        return self._of(f"{name}.delta", run, delta=step.text)

    def _done(self, run: Run) -> bytes:
        if run.kind == "call":
            return self._of("function_call_arguments.done", run, arguments=run.text)
        if run.kind == "reasoning":
            return self._of("reasoning_text.done", run, text=run.text)
        return self._of("output_text.done", run, text=run.text, logprobs=self._items.logprobs(run.tokens))

    def _of(self, name: str, run: Run, **rest: Any) -> bytes:
        place = {"item_id": self._items.id(run), "output_index": run.place}
        if run.kind != "call":
            place["content_index"] = 0
        return self._event(f"response.{name}", {**place, **rest})

    def _event(self, name: str, data: dict[str, Any]) -> bytes:
        self._number += 1
        row = {"type": name, "sequence_number": self._number, **data}
        return f"event: {name}\ndata: {json.dumps(row, ensure_ascii=False)}\n\n".encode()


def _status(run: Run, answer: Answer) -> Status:
    """The last item of an answer that was cut short, or failed, is incomplete."""
    last = run is answer.runs[-1]
    return "incomplete" if last and answer.finish in ("length", None) else "completed"


def _head(body: ResponseRequest, sampling: SamplingParams, name: str) -> dict[str, Any]:
    """What is known of a response before its answer."""
    form = dumped(body.text) if body.text is not None else {}
    reasoning = body.reasoning.effort if body.reasoning is not None else None
    choice = body.tool_choice or "auto"
    return {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": reasoning, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": sampling.temperature,
        "text": {"format": {"type": "text"}, **form},
        "tool_choice": choice if isinstance(choice, str) else dumped(choice),
        "tools": [dumped(tool) for tool in body.tools or () if not isinstance(tool, Skipped)],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
    }
