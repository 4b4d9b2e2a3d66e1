"""Calls that are JSON objects of a name and arguments: Hermes' and Llama 3.1's.

Sources of the forms: the prompt format of Nous Research's Hermes 2 Pro, which Qwen2.5 and Qwen3 took
over; Meta's prompt format for Llama 3.1, "JSON based tool calling".
"""

import json
from typing import Any

from sampan.text.tools.json_prefix import JsonPrefix
from sampan.text.tools.source import Malformed, Reading, Source
from sampan.text.tools.syntax import Head, Syntax

PYTHON_TAG = "<|python_tag|>"

_ARGUMENTS = ("arguments", "parameters")  # models trained on one form write the other's name now and then


def read_head(source: Source, opener: str) -> Reading[Head]:
    """The object up to its arguments, or whole where the name comes after them or there are none."""
    if opener != "{":
        yield from source.white()
    scanner = JsonPrefix()
    start = source.position
    span = slice(0)
    while not scanner.complete:
        character = yield from source.peek()
        if (
            character == "{"
            and scanner.depth == 1
            and _arguments_follow(source.text[start : source.position])
        ):
            members = _read(source.text[start : source.position] + "null}")
            if "name" in members:
                return Head(_name(members))
            if span.stop:
                raise Malformed
            span = slice(source.position, None)
        if not scanner.accept(character):
            raise Malformed
        source.position += 1
        if span.stop is None and scanner.depth == 1 and character == "}":
            span = slice(span.start, source.position)
    members = _read(source.text[start : source.position])
    return Head(_name(members), _inner(source, members, span))


def _arguments_follow(text: str) -> bool:
    """Whether the beginning of an object ends with the key of the arguments."""
    key = text.rstrip().removesuffix(":").rstrip()
    return any(key.endswith(f'"{name}"') for name in _ARGUMENTS)


def _inner(source: Source, members: dict[str, Any], span: slice) -> str:
    """The arguments of a whole object, as they were written; none are an empty object."""
    if any(name in members for name in _ARGUMENTS):
        if not span.stop:
            raise Malformed
        return source.text[span]
    return "{}"


def _read(text: str) -> dict[str, Any]:
    try:
        members: dict[str, Any] = json.loads(text)
    except ValueError as error:  # a number of thousands of digits
        raise Malformed from error
    return members


def _name(members: dict[str, Any]) -> str:
    name = members.get("name")
    if not isinstance(name, str):
        raise Malformed
    return name


HERMES = Syntax(
    name="hermes",
    head=read_head,
    before='<tool_call>\n{"name": "NAME", "arguments": ',
    after="}\n</tool_call>",
    openers=("<tool_call>",),
    closers=("}", "</tool_call>"),
    markers=("<tool_call>", "</tool_call>"),
)

LLAMA = Syntax(
    name="llama",
    head=read_head,
    before='{"name": "NAME", "parameters": ',
    after="}",
    between="; ",
    openers=(PYTHON_TAG,),
    closers=("}",),
    markers=(PYTHON_TAG,),
    bare=True,
)
