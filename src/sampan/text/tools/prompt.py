"""Conversations with tools as chat templates take them.

In: messages and tools in the form of OpenAI's chat completions, contents as text. Out: what the model's
template expects of them, or the same written as text where it knows no calls.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sampan.core.errors import RequestError
from sampan.core.types import Call
from sampan.text.tools.arguments import written_arguments
from sampan.text.tools.formats import ToolFormat

Message = dict[str, Any]

_EXAMPLE = Call("function-name", '{"argument-name": "value"}')


def instructions(format: ToolFormat, tools: Sequence[Mapping[str, Any]]) -> str:
    """What to tell a model of `tools` in its system message, if its template does not."""
    functions = (json.dumps(_told(tool["function"]), ensure_ascii=False) for tool in tools)
    return "\n".join(
        [
            "You can call functions. Each line is one of them, in JSON, its parameters as a JSON Schema:",
            "<tools>",
            *functions,
            "</tools>",
            "To call a function, write its name and its arguments in exactly this form:",
            format.syntax.write([_EXAMPLE]),
            "To call several, write one after another. Then stop: the next message brings what they return. "
            "Call a function only where it helps, and answer in words otherwise.",
        ]
    )


def for_template(
    format: ToolFormat, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> tuple[list[Message], list[Message] | None]:
    """The `messages` and `tools` to render a conversation with; None for a template to be given no tools.

    Results come behind their calls, in the same order. Raises `RequestError` for a result of a call that was
    not made.
    """
    turns = [_Turn.of(place, message) for place, message in enumerate(messages)]
    given = list(_rendered(format, _ordered(turns)))
    told = [{**tool, "function": _told(tool["function"])} for tool in tools]
    if told and not format.lists_tools:
        given = _with_system(given, instructions(format, tools))
    return given, told if told and format.lists_tools else None


@dataclass(frozen=True)
class _Turn:
    """A message with its calls read. `place`: which message of the request it is."""

    place: int
    message: Message
    calls: tuple[tuple[str, Call], ...] = ()  # each with its id

    @classmethod
    def of(cls, place: int, message: Mapping[str, Any]) -> "_Turn":
        rest = {name: value for name, value in message.items() if name != "tool_calls"}
        return cls(place, rest, tuple(map(_call, message.get("tool_calls") or ())))


def _call(call: Mapping[str, Any]) -> tuple[str, Call]:
    function = call["function"]
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return call.get("id") or "", Call(function["name"], written_arguments(arguments))


def _told(function: Mapping[str, Any]) -> Message:
    """A function as models are told of it: how strictly it is called is no matter of theirs."""
    return {name: value for name, value in function.items() if name != "strict"}


def _ordered(turns: Iterable[_Turn]) -> list[_Turn]:
    """Results behind the turn that called, in the order of its calls and named after their functions, for
    templates show no ids. What was said between a call and its result comes after it."""
    groups: list[list[tuple[int, _Turn]]] = []  # a turn, and its results with the places of their calls
    calls: dict[str, tuple[int, int, str]] = {}  # of each id: its turn's group, its place there, its function
    for turn in turns:
        id = turn.message.get("tool_call_id")
        if turn.message["role"] != "tool":
            calls |= {id: (len(groups), n, call.name) for n, (id, call) in enumerate(turn.calls)}
            groups.append([(-1, turn)])
        elif id in calls:
            group, place, name = calls[id]
            groups[group].append((place, _named(turn, name)))
        elif id is not None:
            raise RequestError(
                f"messages[{turn.place}].tool_call_id is {id!r:.80}: "
                "no call of the assistant's before it has this id"
            )
        elif groups:
            groups[-1].append((len(calls), turn))
        else:
            groups.append([(-1, turn)])
    return [turn for group in groups for _, turn in sorted(group, key=lambda each: each[0])]


def _named(turn: _Turn, name: str) -> _Turn:
    return _Turn(turn.place, {"name": name, **turn.message}) if name else turn


def _rendered(format: ToolFormat, turns: list[_Turn]) -> Iterable[Message]:
    if not format.writes_calls:
        return _in_words(format, turns)
    if format.syntax.bare:
        turns = _one_by_one(turns)
    return [_with_calls(format, turn) for turn in turns]


def _with_calls(format: ToolFormat, turn: _Turn) -> Message:
    if not turn.calls:
        return turn.message
    calls = [
        {
            "id": id,
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": json.loads(call.arguments) if format.arguments == "object" else call.arguments,
            },
        }
        for id, call in turn.calls
    ]
    content = turn.message.get("content") or format.syntax.silence
    return {**turn.message, "content": content, "tool_calls": calls}


def _one_by_one(turns: list[_Turn]) -> list[_Turn]:
    """Each call in a turn of its own before its result: Llama's template takes no more."""
    single: list[_Turn] = []
    waiting: list[_Turn] = []
    for turn in turns:
        if turn.message["role"] != "tool":
            single += waiting
            waiting = []
        if len(turn.calls) > 1:
            first, *others = turn.calls
            single.append(_Turn(turn.place, turn.message, (first,)))
            waiting = [_Turn(turn.place, {**turn.message, "content": ""}, (call,)) for call in others]
        else:
            single.append(turn)
            if turn.message["role"] == "tool" and waiting:
                single.append(waiting.pop(0))
    return single + waiting


def _in_words(format: ToolFormat, turns: list[_Turn]) -> Iterable[Message]:
    """Calls as text of the assistant's, results as text of the user's, those side by side in one turn."""
    for is_result, group in groupby(turns, lambda turn: turn.message["role"] == "tool"):
        if is_result:
            results = (f"<tool_response>\n{turn.message['content']}\n</tool_response>" for turn in group)
            yield {"role": "user", "content": "\n".join(results)}
        else:
            for turn in group:
                yield _spoken(format, turn) if turn.calls else turn.message


def _spoken(format: ToolFormat, turn: _Turn) -> Message:
    written = format.syntax.write([call for _, call in turn.calls])
    content = turn.message.get("content")
    return {**turn.message, "content": f"{content}\n{written}" if content else written}


def _with_system(messages: list[Message], text: str) -> list[Message]:
    if messages and messages[0]["role"] == "system":
        first, *rest = messages
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *rest]
    return [{"role": "system", "content": text}, *messages]
