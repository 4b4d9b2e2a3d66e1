"""A call's arguments as the object that they are meant to be, whatever a model or a client has made of them.

An answer that was cut ends in the middle of its arguments, and a conversation must go on from there. So what
is no JSON object, or none that can be written again, is the one text of `INVALID_JSON`, as Anthropic has it.
"""

import json
from typing import Any, NoReturn

INVALID = "INVALID_JSON"
_MAX_DEPTH = 64  # templates and requests take no more than a hundred levels, of which some stand around these


def read_arguments(text: str | None) -> dict[str, Any]:
    """The object; an empty one for nothing, which is also written "" and "null"."""
    try:
        value = json.loads(text or "null", parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # half a surrogate pair, 1e999
        _check_numbers(value)
    except (ValueError, OverflowError, RecursionError):
        return {INVALID: text}
    if value is None:
        return {}
    return value if isinstance(value, dict) else {INVALID: text}


def written_arguments(text: str | None) -> str:
    """The same as text: a JSON object as it was written."""
    value = read_arguments(text)
    return text if text and value and INVALID not in value else json.dumps(value, ensure_ascii=False)


def _check_numbers(value: Any) -> None:
    """`OverflowError` for an integer beyond 64-bit floats, `ValueError` for what is nested too deeply."""
    rest = [(value, 0)]
    while rest:
        item, depth = rest.pop()
        if depth > _MAX_DEPTH:
            raise ValueError
        if isinstance(item, int):
            float(item)
        elif isinstance(item, dict):
            rest += [(each, depth + 1) for each in item.values()]
        elif isinstance(item, list):
            rest += [(each, depth + 1) for each in item]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
