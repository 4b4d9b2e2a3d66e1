"""Which JSON schemas answers can be held to: everything that is not certain to hold is refused, by name.

The rules are those of llguidance, of which each keyword that it ignores or cannot ensure is refused here,
with its place; and what would take it too long or too much memory.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from sampan.core.errors import RequestError, quoted

MAX_DEPTH = 64
MOST_REPEATS = 10_000  # copies that counted repetitions, one inside another, may stand for
_MOST_STEPS = 10_000  # a multiple of n is found by counting to n

FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
_ANNOTATIONS = {"title", "description", "default", "examples", "example", "deprecated", "$comment", "$schema"}
_OPENAPI = {"readOnly", "writeOnly", "discriminator", "externalDocs", "xml"}  # annotations, all of them
_ANY = {"$ref", "$id", "id", "$anchor", "type", "const", "enum"}
_SIZES = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_OTHERS = {"pattern", "format", "required"}
_SCHEMAS = {"items", "additionalItems", "prefixItems", "additionalProperties", "allOf", "anyOf", "oneOf"}
_NAMED = {"properties", "patternProperties", "$defs", "definitions"}
_KNOWN = _ANNOTATIONS | _OPENAPI | _ANY | _SIZES | _NUMBERS | _OTHERS | _SCHEMAS | _NAMED
# Leap seconds belong to a few midnights only, T and Z are written large, and many calendars know no year 0.
_TIME, _YEAR = "^[^t:]*:[^:]*:[0-5][^z]*$", "^([^0]|0[^0]|00[^0]|000[^0])"
_STRICTER = {"time": (_TIME,), "date": (_YEAR,), "date-time": (_YEAR, _TIME)}
_REPEAT = re.compile(r"\\.|\[(?:\\.|[^]\\])*\]|[()]|\{(\d*),?(\d*)\}")


def read_schema(source: str) -> tuple[Any, list[str]]:
    """The schema in a JSON text, checked, and stricter where llguidance is laxer; and those of its patterns
    that have counted repetitions one inside another. Raises `RequestError`."""
    schema = read_json(source, "the JSON schema")
    nested: list[str] = []
    for place, part in _parts(schema, "#", 0):
        nested += _check(place, part)
        name, given = part.get("format"), part.get("allOf", [])
        if name in _STRICTER and isinstance(given, list):
            part["allOf"] = [*given, *({"pattern": pattern} for pattern in _STRICTER[name])]
    return schema, nested


def read_json(source: str, what: str) -> Any:
    """A JSON text. Raises `RequestError`."""
    try:
        return json.loads(source, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise RequestError(f"{what} is nested too deeply: {MAX_DEPTH} levels are the most") from None
    except ValueError as error:
        raise RequestError(f"{what} is not JSON: {str(error)[:80]}") from None


def check_repeats(pattern: str, what: str) -> bool:
    """Refuse counted repetitions, such as `(a{100}){1000}`, that stand for too many copies. Whether there are
    any inside another."""
    heights = [1]
    last = 1
    nested = False
    for found in _REPEAT.finditer(pattern):
        sign = found[0]
        if sign == "(":
            heights.append(1)
        elif sign == ")" and len(heights) > 1:
            last = heights.pop()
        elif sign[0] == "{":
            inner = last if pattern[found.start() - 1] == ")" else 1
            last = _times(found[1], found[2]) * inner
            nested = nested or inner > 1
        else:
            last = 1
        heights[-1] = max(heights[-1], last if sign != "(" else 1)
        if heights[-1] > MOST_REPEATS:
            raise RequestError(f"{what} repeats {heights[-1]} times: {MOST_REPEATS} are the most")
    return nested


def check_length(schema: Mapping[str, Any], what: str) -> None:
    """Refuse a text that must be longer than a parser reads ahead at once."""
    least = schema.get("minLength")
    if isinstance(least, int | float) and least > MOST_REPEATS:
        raise RequestError(f"{what}: minLength is {quoted(least)}: {MOST_REPEATS} is the most")


def _times(least: str, most: str) -> int:
    return max(int(least[:9] or 1), int(most[:9] or 1), 1)


def _parts(schema: Any, place: str, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema inside a schema, with its JSON pointer."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise RequestError(
            f"the JSON schema at {_short(place)} is of type {type(schema).__name__}: give an object"
        )
    if depth > MAX_DEPTH:
        raise RequestError(
            f"the JSON schema at {_short(place)} is nested too deeply: {MAX_DEPTH} levels are the most"
        )
    parts = list(schema.items())
    yield place, schema
    for keyword, value in parts:
        inner = f"{place}/{_escaped(keyword)}"
        if keyword in _NAMED and isinstance(value, dict):
            for name, part in value.items():
                yield from _parts(part, f"{inner}/{_escaped(name)}", depth + 1)
        elif keyword in _SCHEMAS and isinstance(value, list):
            for number, part in enumerate(value):
                yield from _parts(part, f"{inner}/{number}", depth + 1)
        elif keyword in _SCHEMAS:
            yield from _parts(value, inner, depth + 1)


def _check(place: str, schema: Mapping[str, Any]) -> list[str]:
    """Refuse what is not supported. Patterns with counted repetitions one inside another."""
    place = _short(place)
    for keyword in schema:
        annotation = keyword.startswith("x-") and keyword != "x-guidance"
        if keyword not in _KNOWN and not annotation:
            raise RequestError(f'the JSON schema at {place}: the keyword "{keyword:.60}" is not supported')
    name = schema.get("format")
    if name is not None and not (isinstance(name, str) and name in FORMATS):
        raise RequestError(
            f'the JSON schema at {place}: the format "{name!s:.60}" is not supported, only '
            + ", ".join(sorted(FORMATS))
        )
    _check_numbers(place, schema)
    check_length(schema, f"the JSON schema at {place}")
    pattern, names = schema.get("pattern"), schema.get("patternProperties")
    patterns = dict.fromkeys(names, "a name in patternProperties") if isinstance(names, dict) else {}
    if isinstance(pattern, str):
        patterns[pattern] = "the pattern"
    return [
        each for each, what in patterns.items() if check_repeats(each, f"the JSON schema at {place}: {what}")
    ]


def _check_numbers(place: str, schema: Mapping[str, Any]) -> None:
    step = schema.get("multipleOf")
    if isinstance(step, int | float) and not isinstance(step, bool):
        digits = Decimal(str(step)).normalize().as_tuple().digits
        if int("".join(map(str, digits))) > _MOST_STEPS:
            raise RequestError(
                f"the JSON schema at {place}: multipleOf is {quoted(step)}, which takes too long to count: "
                f"{_MOST_STEPS} is the most, with any number of zeros"
            )
    least, required = schema.get("minProperties"), schema.get("required")
    named = len(set(map(str, required))) if isinstance(required, list) else 0
    if isinstance(least, int) and least > named + 1:
        raise RequestError(
            f"the JSON schema at {place}: minProperties is {quoted(least)} with {named} names in required: "
            "other names may repeat, so no more than one of them can be promised"
        )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError(f"{quoted(digits, 40)} is too large a number")
    return number


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _short(place: str) -> str:
    return place if len(place) <= 100 else f"{place[:40]}...{place[-50:]}"
