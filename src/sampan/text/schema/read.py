"""Which JSON schemas answers can be held to: everything that is not certain to hold is refused, by name.

The rules are those of llguidance. Assertions that it ignores are said in its terms where that stays small
(`rewrite.py`), and else refused with their place, as is what takes too long or too much memory.
"""

import json
import math
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sampan.core.errors import RequestError, quoted
from sampan.text.schema.document import MAX_DEPTH, MOST_WRITTEN, TOO_LARGE, Document
from sampan.text.schema.formats import check_format
from sampan.text.schema.keywords import OBEYED, check_keywords, shortened
from sampan.text.schema.rewrite import Rewriter

MOST_REPEATS = 10_000  # copies that counted repetitions, one inside another, may stand for
_MOST_STEPS = 10_000  # a multiple of n is found by counting to n

_MOST_PARTS = 20_000  # schemas of what is written out
_REPEAT = re.compile(r"\\.|\[(?:\\.|[^]\\])*\]|[()]|\{(\d*),?(\d*)\}")


@dataclass(frozen=True)
class ReadSchema:
    """`schema`: in llguidance's terms. `nested`: patterns that have counted repetitions one inside another.
    `overlaps`: options of its `oneOf`s that may both be valid. `keys`: whether names have patterns."""

    schema: Any
    nested: tuple[str, ...]
    overlaps: tuple[str, ...]
    keys: bool


def read_schema(source: str) -> ReadSchema:
    """The schema in a JSON text, checked and put in llguidance's terms. Raises `RequestError`."""
    schema = read_json(source, "the JSON schema")
    try:
        return _read(schema)
    except RecursionError:
        raise RequestError(f"the JSON schema is nested too deeply: {MAX_DEPTH} levels are the most") from None


def _read(schema: Any) -> ReadSchema:
    document = Document(schema)
    for place, part in document.parts():
        for keyword in [each for each in part if part[each] is None and each in OBEYED - {"const"}]:
            del part[keyword]  # as it is written by who leaves it out
        _check(place, part)
    document = document.flatten()
    dialect = schema.get("$schema") if isinstance(schema, dict) else ""
    rewriter = Rewriter(Document(deepcopy(schema)).target, str(dialect))
    nested, keys = list[str](), False
    for number, (place, part) in enumerate(document.parts()):
        if number > _MOST_PARTS:
            raise RequestError(TOO_LARGE)
        nested += _check(place, part)  # what was written out is held to the same limits
        rewriter.rewrite(part, place)
        keys = keys or "patternProperties" in part
    if len(json.dumps(schema)) > MOST_WRITTEN:
        raise RequestError(TOO_LARGE)
    return ReadSchema(schema, tuple(nested), tuple(rewriter.overlaps), keys)


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


def _check(place: str, schema: Mapping[str, Any]) -> list[str]:
    """Refuse what is not supported. Patterns with counted repetitions one inside another."""
    check_keywords(schema, place)
    check_format(schema, place)
    place = shortened(place)
    _check_numbers(place, schema)
    check_length(schema, f"the JSON schema at {place}")
    patterns = dict.fromkeys(schema.get("patternProperties", ()), "a name in patternProperties")
    if "pattern" in schema:
        patterns[schema["pattern"]] = "the pattern"
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
