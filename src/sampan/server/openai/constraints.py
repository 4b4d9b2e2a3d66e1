"""What the answer of a chat completion or a completion must look like, by whichever field it is said."""

import json
from collections.abc import Iterator
from typing import Any

from sampan.core.types import Grammar
from sampan.server.errors import bad_request
from sampan.server.openai.schemas import (
    ChatRequest,
    GrammarField,
    PlainFormat,
    Sampling,
    SchemaFormat,
    StructuredOutputs,
)

_LONGEST = 64 << 10
"""Characters of a grammar in GBNF, which is translated on the event loop."""


def constraint_of(request: Sampling) -> tuple[str, Grammar | None]:
    """The one constraint of a request and the field that says it; a 400 where there are several."""
    found = dict(_all(request))
    if len(found) > 1:
        raise bad_request(f"{' and '.join(found)} exclude each other: give one", param=list(found)[-1])
    return next(iter(found.items()), ("tools", None))


def _all(request: Sampling) -> Iterator[tuple[str, Grammar]]:
    """Each constraint with the field that says it."""
    form = request.response_format if isinstance(request, ChatRequest) else None
    for name, grammar in (("response_format", _of_format(form)), ("grammar", _of_field(request.grammar))):
        if grammar is not None:
            yield name, grammar
    for name in ("json", "regex", "choice", "grammar"):
        value = getattr(request, f"guided_{name}")
        if value is not None:
            yield f"guided_{name}", _guided(name, value, f"guided_{name}")
    if request.structured_outputs is not None:
        yield from _structured(request.structured_outputs)


def _structured(given: StructuredOutputs) -> Iterator[tuple[str, Grammar]]:
    values = {"json": given.json_, "regex": given.regex, "choice": given.choice, "grammar": given.grammar}
    for name, value in values.items():
        if value is not None:
            yield f"structured_outputs.{name}", _guided(name, value, f"structured_outputs.{name}")
    if given.json_object:
        yield "structured_outputs.json_object", Grammar("json_object")


def _guided(name: str, value: Any, param: str) -> Grammar:
    if name == "json":
        return Grammar("json_schema", value if isinstance(value, str) else json.dumps(value))
    if name == "choice":
        return Grammar("choice", json.dumps(value))
    return Grammar("regex", value) if name == "regex" else Grammar("lark", _lark(value, param))


def _of_format(form: SchemaFormat | PlainFormat | None) -> Grammar | None:
    if isinstance(form, SchemaFormat):
        return Grammar("json_schema", json.dumps(form.json_schema.schema_))
    return Grammar("json_object") if form is not None and form.type == "json_object" else None


def _of_field(field: GrammarField | str | None) -> Grammar | None:
    if not field:
        return None
    if isinstance(field, str):
        return Grammar("lark", _lark(field, "grammar"))
    if isinstance(field.value, list) != (field.type == "choice"):
        raise bad_request(f"grammar.value of a {field.type} is not of the right type", param="grammar")
    return Grammar(field.type, field.value if isinstance(field.value, str) else json.dumps(field.value))


def _lark(text: str, param: str) -> str:
    """The grammar in Lark: as it is, or translated from llama.cpp's form."""
    from llguidance.gbnf_to_lark import any_to_lark

    if "::=" not in text:
        return text
    if len(text) > _LONGEST:
        raise bad_request(f"{param} has more than {_LONGEST} characters: write it in Lark", param=param)
    try:
        return any_to_lark(text)
    except Exception as error:  # a parser of its own, which says in its own words what is wrong
        raise bad_request(f"{param} is no grammar: {str(error)[:200]}", param=param) from None
