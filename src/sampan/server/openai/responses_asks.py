"""Requests of OpenAI's responses as asks."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from sampan.core.errors import quoted
from sampan.core.types import Grammar, SamplingParams
from sampan.server.ask import Ask, Caller, Tools
from sampan.server.errors import ApiError, bad_request
from sampan.server.fields import Ignored
from sampan.server.offer import offer
from sampan.server.openai.namespaces import Namespaces, joined
from sampan.server.openai.responses_schemas import (
    FunctionChoice,
    Item,
    ReferenceItem,
    ResponseRequest,
    TextSchema,
)
from sampan.server.openai.schemas import dumped
from sampan.server.openai.sealed import unsealed
from sampan.server.service import Service
from sampan.server.text import ModelText
from sampan.server.thinking import Plan, planned
from sampan.server.watch import logs

_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_TEXTS = ("content", "reasoning_content")
_LOGPROBS, _ENCRYPTED = "message.output_text.logprobs", "reasoning.encrypted_content"
_SILENT = {"role": "assistant", "content": ""}


async def ask_of(
    body: ResponseRequest, items: Sequence[Mapping[str, Any]], service: Service, caller: Caller
) -> Ask:
    """The request as an ask; `items`: the whole conversation. `ApiError` for what is not served."""
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream to be true", param="stream_options")
    if set(body.include or ()) - {_LOGPROBS, _ENCRYPTED}:
        logs.ignore([Ignored("include", known=True)])
    grammar, tools, plan = _grammar(body), _tools(body), _thinking(body, service)
    sampling = replace(_sampling(body, service.text), max_reasoning_tokens=plan.budget)

    async def asked(items: Sequence[Mapping[str, Any]]) -> Ask:
        ask = await service.conversation(
            template_messages(body.instructions, items),
            sampling,
            caller,
            model=body.model,
            n=1,
            grammar=grammar,
            tools=tools,
            variables=plan.variables,
        )
        constraint = "tools" if grammar is None else "text.format"
        return replace(ask, cache_salt=body.cache_salt, constraint=constraint)

    try:
        return (
            await _fitted(items, asked, service.context) if body.truncation == "auto" else await asked(items)
        )
    except ApiError as error:
        if error.param == "messages":
            error.param = "input"
        raise


async def _fitted(
    items: Sequence[Mapping[str, Any]],
    asked: Callable[[Sequence[Mapping[str, Any]]], Awaitable[Ask]],
    most: int,
) -> Ask:
    """What is asked with as many of the last items as leave room for an answer: while there are too many, the
    older half goes. Who told the model what to do, and the last item, stay."""
    while True:
        kept = shortened(items)
        try:
            ask = await asked(items)
            if len(ask.ids) < most or len(kept) == len(items):
                return ask
        except ApiError as error:
            if error.code != "context_length_exceeded" or len(kept) == len(items):
                raise
        items = kept


def shortened(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without the older half of what was said; results of calls that go, go with them."""
    standing = [item.get("role") in ("system", "developer") for item in items]
    said = [place for place, stays in enumerate(standing[:-1]) if not stays]
    gone = set(said[: (len(said) + 1) // 2])
    calls = {items[place]["call_id"] for place in gone if items[place]["type"] == "function_call"}
    return [
        item
        for place, item in enumerate(items)
        if place not in gone and not (item["type"] == "function_call_output" and item["call_id"] in calls)
    ]


Find = Callable[[str], Mapping[str, Any] | None]
"""A stored item by its id."""


def numbered(items: Sequence[Item], found: Find) -> list[dict[str, Any]]:
    """The items of a request as they are listed: each has an id and is complete. `found`: those that stand
    there by their ids alone."""
    rows = []
    for place, item in enumerate(items):
        if isinstance(item, ReferenceItem):
            rows.append(_referred(item.id, place, found))
        else:
            row = dumped(item)
            rows.append({"id": f"{_PREFIXES[item.type]}_{uuid4().hex}", "status": "completed", **row})
    return rows


def _referred(name: str, place: int, found: Find) -> dict[str, Any]:
    item = found(name)
    if item is None:
        raise bad_request(
            f"the item {quoted(name)} is not here: it was not stored, or it is too long ago",
            param=f"input.{place}.id",
        )
    return dict(item)


def check_results(items: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> None:
    """A 400 for a result of no call that was made until then, at its place in the request."""
    calls = {item["call_id"] for item in before if item["type"] == "function_call"}
    for place, item in enumerate(items):
        if item["type"] == "function_call":
            calls.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in calls:
            param = f"input.{place}.call_id"
            why = f"no function_call before it has the id {quoted(item['call_id'])}"
            raise bad_request(f"{param}: {why}", param=param)


def with_logprobs(body: ResponseRequest) -> bool:
    """Whether the text comes with log-probabilities."""
    return _LOGPROBS in (body.include or ())


def with_encrypted(body: ResponseRequest) -> bool:
    """Whether reasoning comes in a form that is to be given back as it is."""
    return _ENCRYPTED in (body.include or ())


def template_messages(instructions: str | None, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items as chat templates know them: calls and thoughts belong to a message of the assistant."""
    rows: list[dict[str, Any]] = []
    if instructions is not None:
        rows.append({"role": "system", "content": instructions})
    thought = ""
    for item in items:
        if item["type"] == "reasoning":
            thought += _reasoning(item)
            continue
        row = _row(item)
        if row["role"] == "assistant":
            row, thought = _thought(row, thought), ""
            if rows and rows[-1]["role"] == "assistant" and "tool_calls" in row.keys() | rows[-1].keys():
                rows[-1] = _joined(rows[-1], row)
                continue
        elif thought:
            rows, thought = [*rows, _thought(_SILENT, thought)], ""
        rows.append(row)
    return [*rows, _thought(_SILENT, thought)] if thought else rows


def _reasoning(item: Mapping[str, Any]) -> str:
    if item.get("content"):
        return _text(item["content"])
    thought = unsealed(item.get("encrypted_content") or "")
    if thought is None:
        logs.ignore([Ignored("input.encrypted_content", known=True)])
    return thought or _text(item.get("summary") or ())


def _row(item: Mapping[str, Any]) -> dict[str, Any]:
    if item["type"] == "function_call":
        name = joined(item.get("namespace"), item["name"])
        function = {"name": name, "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if item["type"] == "function_call_output":
        return {"role": "tool", "tool_call_id": item["call_id"], "content": _text(item["output"])}
    role = "system" if item["role"] == "developer" else item["role"]
    return {"role": role, "content": _text(item["content"])}


def _thought(row: Mapping[str, Any], thought: str) -> dict[str, Any]:
    return {**row, "reasoning_content": thought} if thought else dict(row)


def _joined(turn: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """A turn that calls, with what was said or called before and after: it is one answer."""
    texts = {name: [row[name] for row in (turn, more) if row.get(name)] for name in _TEXTS}
    calls = turn.get("tool_calls", []) + more.get("tool_calls", [])
    return {**turn, **{name: "\n".join(found) or None for name, found in texts.items()}, "tool_calls": calls}


def _text(parts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(part["refusal" if part["type"] == "refusal" else "text"] for part in parts)


def _sampling(body: ResponseRequest, text: ModelText) -> SamplingParams:
    if body.top_logprobs and not with_logprobs(body):
        raise bad_request(
            'top_logprobs needs include to be ["message.output_text.logprobs"]', param="top_logprobs"
        )
    given = {"temperature": body.temperature, "top_p": body.top_p, "max_tokens": body.max_output_tokens}
    if with_logprobs(body):
        given["logprobs"] = body.top_logprobs or 0
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if body.max_output_tokens == -1:
        known["max_tokens"] = known["max_length"] = None
    return replace(text.defaults, **known)


def _grammar(body: ResponseRequest) -> Grammar | None:
    form = body.text.format if body.text is not None else None
    if isinstance(form, TextSchema):
        return Grammar("json_schema", json.dumps(form.schema_))
    return Grammar("json_object") if form is not None and form.type == "json_object" else None


def _tools(body: ResponseRequest) -> Tools | None:
    choice = body.tool_choice
    named = isinstance(choice, FunctionChoice)
    name = choice.name if isinstance(choice, FunctionChoice) else choice or "auto"
    return offer(Namespaces(body).offered, name, named=named, parallel=body.parallel_tool_calls is not False)


def _thinking(body: ResponseRequest, service: Service) -> Plan:
    """What the chat template is told and for how long the model may think."""
    effort = body.reasoning.effort if body.reasoning is not None else None
    if effort is None:
        return Plan({}, None)
    return planned(service, effort != "none", param="reasoning.effort", effort=effort)
