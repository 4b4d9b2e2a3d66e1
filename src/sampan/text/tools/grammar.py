"""What an answer with calls must look like, in llguidance's dialect of Lark.

Source of the dialect: llguidance's docs/syntax.md. Texts match no control token: it stands as `<[id]>`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sampan.core.errors import RequestError
from sampan.core.types import Call, Grammar
from sampan.text.grammar.lark import CLOSE, LOOSE
from sampan.text.grammar.source import FORM, JSON_OPTIONS
from sampan.text.tools.formats import ToolFormat
from sampan.text.tools.listed import only_listed
from sampan.text.tools.parser import Loose

MOST_CALLS = 64  # in one answer: a model that repeats itself comes to an end

# The white space that models are trained on, json.dumps' own; none of it can be repeated without end.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def grammar(
    format: ToolFormat,
    tools: Sequence[Mapping[str, Any]],
    choice: str = "auto",
    parallel: bool = True,
    form: Grammar | None = None,
) -> Grammar | None:
    """What answers to a request with `tools` must look like; None where they may be any text.

    `choice`: "auto", "none", "required" or the name of the one function to call, once. `parallel`: several
    calls are fine. `form`: what an answer in words must look like. Calls that must be made, and those beside
    a `form`, have arguments valid by the function's `parameters` (an object has the listed keys only, unless
    it says otherwise), as far as llguidance knows its keywords; of a function with `strict`, a keyword it
    does not know makes the grammar's compilation fail. Under "auto" calls are held to the same once the model
    begins one; where no function is strict and several calls are fine, the text before a call is free of any
    grammar, and so are calls whose functions make none. Raises `RequestError` for an unknown name and for
    parameters of no object.
    """
    if choice == "none" or not tools:
        return form
    functions = [tool["function"] for tool in tools]
    if choice == "auto" and form is not None:
        return replace(form, calls=_text(_calls_or_form(format, functions, parallel)))
    if choice == "auto":
        if parallel and not any(function.get("strict") for function in functions):
            return _behind_opener(format, functions)
        return _lark([*_when_begun(format, functions, parallel), *_functions(format, functions)])
    if choice != "required":
        functions = [function for function in functions if function["name"] == choice]
        parallel = False
    if not functions:
        raise RequestError(
            f"tool_choice names {choice!r:.80}, which is none of the tools: give one of their names"
        )
    calls = _joined(_terms(format, format.syntax.begin + format.syntax.opening), _rest(format, parallel))
    return _lark([f"start: {calls}", *_functions(format, functions)])


def looseness(held: Grammar | None) -> Loose:
    """Where an answer that is held to a grammar of calls may call without the opener."""
    if held is None or held.after:
        return "lines"
    return "" if held.calls else "first"


def _behind_opener(format: ToolFormat, functions: Sequence[Mapping[str, Any]]) -> Grammar | None:
    """What comes behind a call's opener; None where a call begins like any answer, or makes no grammar."""
    syntax = format.syntax
    if syntax.bare:
        return None
    opener = syntax.openers[0]
    opening = _terms(format, (syntax.begin + syntax.opening)[len(opener) :])
    try:
        lines = _functions(format, functions)
    except RequestError:
        return None
    calls = _joined(opening, _rest(format, parallel=bool(syntax.end)))
    return replace(_lark([f"start: {calls}", *lines]), after=opener)


def _lark(lines: list[str]) -> Grammar:
    return Grammar("lark", _text(lines))


def _text(lines: list[str]) -> str:
    return "\n".join(["%llguidance {}", *lines]) + "\n"


def _calls_or_form(format: ToolFormat, functions: Sequence[Mapping[str, Any]], parallel: bool) -> list[str]:
    if format.syntax.bare:
        return _objects_or_form(format, functions, parallel)
    return [f"start: {_calls(format, parallel)} | @{FORM}", *_functions(format, functions)]


def _objects_or_form(format: ToolFormat, functions: Sequence[Mapping[str, Any]], parallel: bool) -> list[str]:
    """Calls that begin as any object does are read as the form is: a text such as `{"name": ` would be taken
    for a call's from its first character on."""
    more = f"({json.dumps(format.syntax.between)} function){{0,{MOST_CALLS - 1}}}" if parallel else ""
    lines = ["function: " + " | ".join(f"function_{n}" for n in range(len(functions)))]
    for n, function in enumerate(functions):
        lines.append(f"function_{n}: %json {json.dumps(_as_object(format, function))}")
    return [f"start: {_joined(*_tags(format), 'function', more)} | @{FORM}", *lines]


def _as_object(format: ToolFormat, function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a call that is a JSON object."""
    example = json.loads(format.syntax.write([Call(function["name"], "{}")]))
    arguments = next(key for key, value in example.items() if value == {})
    schema: dict[str, Any] = {key: {"const": value} for key, value in example.items()}
    schema[arguments] = _moved(_schema(function), f"#/properties/{arguments}")
    options = schema[arguments].pop("x-guidance")
    return {
        "type": "object",
        "properties": schema,
        "required": list(schema),
        "additionalProperties": False,
        "x-guidance": JSON_OPTIONS | {"lenient": options["lenient"]},
    }


def _moved(value: Any, place: str) -> Any:
    """A schema whose references lead to where it stands now."""
    if isinstance(value, Mapping):
        moved = {key: _moved(each, place) for key, each in value.items()}
        pointer = value.get("$ref")
        local = isinstance(pointer, str) and (pointer == "#" or pointer.startswith("#/"))
        return moved | {"$ref": place + str(pointer)[1:]} if local else moved
    return [_moved(each, place) for each in value] if isinstance(value, list) else value


def _calls(format: ToolFormat, parallel: bool) -> str:
    """An answer of nothing but calls; Llama's tag may come before them."""
    opening = _terms(format, format.syntax.begin + format.syntax.opening)
    return _joined(*_tags(format), opening, _rest(format, parallel))


def _tags(format: ToolFormat) -> list[str]:
    openers = format.syntax.openers if format.syntax.bare else ()
    return [f"<[{format.control[tag]}]>?" for tag in openers if tag in format.control]


def _when_begun(format: ToolFormat, functions: Sequence[Mapping[str, Any]], parallel: bool) -> list[str]:
    """Any text; but a call, once begun, is a true one."""
    syntax = format.syntax
    if syntax.bare:
        return [f"start: {_calls(format, parallel)} | WORDS", r"WORDS: /\s*([^{\s](.|\n)*)?/"]
    texts = ("FIRST", "TEXT") if syntax.loose_head is not None else ("TEXT", "TEXT")
    lines = [line for text in dict.fromkeys(texts) for line in _block(format, text, parallel)]
    first, then = texts
    more = f" block_{then.lower()}* {then}" if parallel else ""
    start = f"block_{first.lower()}{more} | {first}"
    loose = _loosely(functions, parallel) if syntax.loose_head is not None else []
    return [f"start: {'loose | ' if loose else ''}{start}", *lines, *loose, r"TEXT: /(.|\n)*/"]


def _block(format: ToolFormat, text: str, parallel: bool) -> list[str]:
    """Text of this kind and the calls behind it."""
    syntax, name = format.syntax, text.lower()
    trigger, opening = syntax.openers[0], syntax.begin + syntax.opening
    assert opening.startswith(trigger)
    head = f"head_{name}" if trigger in format.control else f"head_{name}[lazy]"
    # Without an end to a group of calls, the next one is begun by the text after this one.
    rest = _rest(format, parallel and bool(syntax.end))
    return [
        f"{head}: {text} {_terms(format, trigger)}",
        f"block_{name}: " + _joined(f"head_{name}", _terms(format, opening[len(trigger) :]), rest),
    ]


def _loosely(functions: Sequence[Mapping[str, Any]], parallel: bool) -> list[str]:
    """Calls without their opener at the beginning of an answer, and any text that does not begin so."""
    names = [
        re.escape(json.dumps(each["name"], ensure_ascii=False)).replace("/", r"\/") for each in functions
    ]
    lines = [
        f"loose: loose_call{{1,{MOST_CALLS if parallel else 1}}}",
        "loose_call: " + " | ".join(f"loose_{n}" for n in range(len(names))),
        r"FIRST: /(.|\n)*/ & ~/" + f"({'|'.join(names)})".join(LOOSE) + r"(.|\n)*/",
        "WHITE: / ?/",
        f"CLOSE: /{CLOSE}/",
    ]
    for n, name in enumerate(names):
        lines += [f"loose_{n}: LOOSE_{n} WHITE arguments_{n} CLOSE", f"LOOSE_{n}: /{name.join(LOOSE)}/"]
    return lines


def _rest(format: ToolFormat, parallel: bool) -> str:
    """A call after its opening, and more calls."""
    again = _joined(_terms(format, format.syntax.between + format.syntax.opening), "function")
    more = f"({again}){{0,{MOST_CALLS - 1}}}" if parallel else ""
    return _joined("function", more, _terms(format, format.syntax.end))


def _functions(format: ToolFormat, functions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each function's name and arguments."""
    lines = ["function: " + " | ".join(f"function_{n}" for n in range(len(functions)))]
    for n, function in enumerate(functions):
        name = _terms(format, format.syntax.before_of(function["name"])[len(format.syntax.opening) :])
        lines.append(f"function_{n}: " + _joined(name, f"arguments_{n}", _terms(format, format.syntax.after)))
        lines.append(f"arguments_{n}: %json {json.dumps(_schema(function))}")
    return lines


def _schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments: of an object of the listed keys, in our style, with no options of
    the client's."""
    schema = function.get("parameters")
    if schema is None:
        schema = {"properties": {}, "additionalProperties": False}
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise RequestError(
            f"the parameters of the function {function['name']!r:.80} are of type {kind!r:.40}: "
            "arguments are an object, give its schema"
        )
    try:
        schema = only_listed(schema)
    except RecursionError:
        raise RequestError(
            f"the parameters of the function {function['name']!r:.80} are nested too deeply"
        ) from None
    return {**schema, "type": "object", "x-guidance": {**_STYLE, "lenient": not function.get("strict")}}


def _terms(format: ToolFormat, text: str) -> str:
    """A text as terms of a rule: control tokens by their ids, the rest literally."""
    control = "|".join(map(re.escape, format.control))
    parts = re.split(f"({control})", text) if control else [text]
    terms = (
        f"<[{format.control[part]}]>" if part in format.control else json.dumps(part, ensure_ascii=False)
        for part in parts
        if part
    )
    return " ".join(terms)


def _joined(*terms: str) -> str:
    return " ".join(term for term in terms if term)
