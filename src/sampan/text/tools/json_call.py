"""Calls that are JSON objects of a name and arguments: Hermes' and Llama 3.1's.

Sources of the forms: the prompt format of Nous Research's Hermes 2 Pro, which Qwen2.5 and Qwen3 took
over; Meta's prompt format for Llama 3.1, "JSON based tool calling". Which fences and tags models write in
place of Hermes' own, as Qwen2.5-Coder does: llama.cpp, common/chat.cpp, the parser of Hermes 2 Pro.
"""

import json
import re
from typing import Any

from sampan.text.tools.json_prefix import JsonPrefix
from sampan.text.tools.source import Malformed, Reading, Source
from sampan.text.tools.syntax import Head, Syntax

PYTHON_TAG = "<|python_tag|>"

_ARGUMENTS = ("arguments", "parameters")  # models trained on one form write the other's name now and then

_KEYS = ("name", "type", "function", *_ARGUMENTS)
_FIRST_KEY = re.compile(r'\s*\{\s*"([^"]*)"\s*')
_LONGEST_NAME = 256
_FENCE = "```"
_LANGUAGES = ("json", "xml")
_TAGS = ("<tool_call>", "<function_call>", "<tools>", "<tool>", "<response>", "<json>", "<xml>", "<JSON>")


def read_head(source: Source, opener: str) -> Reading[Head]:
    """The object up to its arguments, or whole where the name comes after them or there are none."""
    if opener != "{":
        yield from source.white()
    scanner = JsonPrefix()
    start = source.position
    span = slice(0)
    while not scanner.complete:
        character = yield from source.peek()
        if opener == "{" and scanner.expected == "colon" and scanner.depth == 1:
            _check_key(source.text[start : source.position])
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


def read_loose_head(source: Source, opener: str) -> Reading[Head]:
    """What a call without its opener begins with: a fence, a tag, the object with its name first, then the
    arguments. Whatever else it is, is an answer in JSON."""
    closers = ["}"]
    if opener == _FENCE:
        closers.append(_FENCE)
        yield from source.one_of(_LANGUAGES)
        opener = (yield from source.one_of(_TAGS)) or "{"
    if opener != "{":
        closers.insert(1, opener.replace("<", "</"))
    yield from source.required("{")
    yield from source.required('"name"')
    yield from source.required(":")
    name = yield from source.string(_LONGEST_NAME)
    yield from source.required(",")
    if not (yield from source.one_of([f'"{key}"' for key in _ARGUMENTS])):
        raise Malformed
    yield from source.required(":")
    yield from source.white()
    if (yield from source.peek()) != "{":
        raise Malformed
    return Head(name, closers=tuple(closers))


def _check_key(text: str) -> None:
    """`Malformed` for an object whose first key is no call's: an answer in JSON does not wait for its end."""
    first = _FIRST_KEY.fullmatch(text)
    if first is not None and first[1] not in _KEYS:
        raise Malformed


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
    loose_openers=(_FENCE, "{", *_TAGS[1:]),
    loose_head=read_loose_head,
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
