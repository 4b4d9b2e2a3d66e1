"""The keywords of JSON Schema and OpenAPI: which are obeyed, which can be read over, and what each must hold.

What no draft of JSON Schema and no version of OpenAPI defines is an annotation, as JSON Schema's core says
(draft 2020-12, 6.5); but what nearly is the name of an assertion is taken for a slip and refused.
"""

from collections.abc import Mapping
from typing import Any

from sampan.core.errors import RequestError, quoted

TYPES = ("null", "boolean", "object", "array", "string", "number", "integer")
SIZES = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
MAPS = ("properties", "patternProperties", "dependentSchemas")
DEFINITIONS = ("$defs", "definitions")
ONES = ("additionalProperties", "additionalItems", "not", "if", "then", "else", "contains", "propertyNames")
"""Keywords that hold lists of schemas, schemas by names, those that count where referred to, one schema."""
OBEYED = {
    *SIZES, *_BOUNDS, *LISTS, *MAPS, *ONES,
    "$ref", "$dynamicRef", "$recursiveRef", "type", "const", "enum", "pattern", "format", "required", "items",
    "uniqueItems", "nullable", "dependentRequired", "dependencies", "minContains", "unevaluatedProperties",
    "unevaluatedItems",
    "contentEncoding",
}  # fmt: skip
REFUSED = {
    "maxContains", "divisibleBy", "disallow", "extends", "x-guidance",
}  # fmt: skip
"""Assertions of some draft that cannot be ensured, or that would be llguidance's own options."""
_SLIPS = OBEYED - {"minContains", "then", "else", "contentEncoding", "nullable"}
_ANNOTATIONS = {
    "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
    "discriminator", "externalDocs", "xml", "links", "base", "media", "fragmentResolution", "pathStart",
    "targetSchema", "contentMediaType", "contentSchema", "$schema", "$id", "id", "$anchor", "$comment",
    "$vocabulary", "$dynamicAnchor", "$recursiveAnchor", *DEFINITIONS,
}  # fmt: skip
_BOTH_DRAFTS = ("exclusiveMinimum", "exclusiveMaximum")  # of draft 4 a boolean, later a number


def check_keywords(schema: Mapping[str, Any], place: str) -> None:
    """Refuse keywords that are not supported, that are slips, and those of the wrong shape."""
    for keyword, value in schema.items():
        if keyword in OBEYED:
            wanted = _wanted(keyword, value)
            if wanted:
                raise wrong(place, keyword, f"is {quoted(value)}: give {wanted}")
        elif keyword in REFUSED:
            raise wrong(place, keyword, "is not supported")
        elif keyword not in _ANNOTATIONS and (near := resembled(keyword, _SLIPS)):
            raise wrong(place, keyword, f'is unknown and resembles "{near}": correct it or take it out')


def wrong(place: str, keyword: str, what: str) -> RequestError:
    """The error of a keyword at a place."""
    return RequestError(f'the JSON schema at {shortened(place)}: the keyword "{keyword:.60}" {what}')


def shortened(place: str) -> str:
    """A JSON pointer for a message."""
    return place if len(place) <= 100 else f"{place[:40]}...{place[-50:]}"


def resembled(word: str, known: "set[str] | frozenset[str]") -> str | None:
    """Which known name a word is a slip of: other capitals, underscores, a letter or two too many or few."""
    if word.startswith("x-") or len(word) > 40:
        return None
    plain = _plain(word)
    for name in sorted(known):
        if plain == _plain(name):
            return name
    for name in sorted(known):
        most = 0 if len(name) < 5 else 2 if len(name) >= 10 and not name.startswith(word) else 1
        if abs(len(name) - len(word)) <= most and _distance(word, name) <= most:
            return name
    return None


def _plain(word: str) -> str:
    return "".join(sign for sign in word.lower() if sign.isalnum())


def _distance(one: str, other: str) -> int:
    """Letters to insert, delete, replace or swap with the next (optimal string alignment)."""
    before, last = list[int](), list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (a != b)))
            if i > 1 and j > 1 and a == other[j - 2] and b == one[i - 2]:
                row[j] = min(row[j], before[j - 2] + 1)
        before, last = last, row
    return last[-1]


def _wanted(keyword: str, value: Any) -> str:
    """What a keyword should hold, where it does not."""
    for test, keywords, wanted in _SHAPES:
        if keyword in keywords:
            return "" if test(value) else wanted
    return ""


def _schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _size(value: Any) -> bool:
    return _number(value) and value >= 0 and value == int(value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _types(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(each, str) and each in TYPES for each in values)


_SHAPES: tuple[tuple[Any, tuple[str, ...], str], ...] = (
    (_types, ("type",), "one or more of " + ", ".join(TYPES)),
    (_size, (*SIZES, "minContains"), "a whole number, 0 or more"),
    (lambda v: _number(v) or isinstance(v, bool), _BOTH_DRAFTS, "a number"),
    (lambda v: _number(v) and v > 0, ("multipleOf",), "a number above 0"),
    (_number, _BOUNDS, "a number"),
    (lambda v: isinstance(v, str),
     ("$ref", "$dynamicRef", "$recursiveRef", "pattern", "format", "contentEncoding"), "a text"),
    (lambda v: isinstance(v, bool), ("uniqueItems", "nullable"), "true or false"),
    (lambda v: isinstance(v, list), ("enum",), "a list of values"),
    (lambda v: isinstance(v, list) and bool(v), LISTS, "a list of schemas"),
    (_names, ("required",), "a list of names"),
    (lambda v: isinstance(v, dict), MAPS, "an object of schemas"),
    (lambda v: isinstance(v, dict) and all(map(_names, v.values())), ("dependentRequired",),
     "an object of lists of names"),
    (lambda v: isinstance(v, dict) and all(_names(each) or _schema(each) for each in v.values()),
     ("dependencies",), "an object of lists of names or schemas"),
    (lambda v: _schema(v) or isinstance(v, list), ("items",), "a schema"),
    (_schema, (*ONES, "unevaluatedProperties", "unevaluatedItems"), "a schema"),
)  # fmt: skip
