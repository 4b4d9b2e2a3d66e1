"""What a request's validation found, as an error that names the field as the client wrote it."""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from fastapi.exceptions import RequestValidationError

from sampan.server.errors import ApiError, bad_request

_MOST = 100  # errors that are looked at: a long list may have one an element
_TAG = ("union_tag_invalid", "union_tag_not_found")

Place = tuple[str | int, ...]
Row = Mapping[str, Any]


def invalid(error: RequestValidationError) -> ApiError:
    """The 400: for a field that is not known, or else for the innermost that is wrong."""
    found = [(_place(row, error.body), row) for row in islice(error.errors(), _MOST)]
    place, row = min(found, key=lambda pair: (pair[1]["type"] != "extra_forbidden", -len(pair[0])))
    name = ".".join(map(str, place))[:200].encode("utf-8", "replace").decode()
    if row["type"] == "json_invalid":
        return bad_request("the body is no JSON: " + str(row.get("ctx", {}).get("error", ""))[:200])
    if row["type"] == "extra_forbidden":
        return bad_request(
            f"the field {name} is not supported here: leave it out", param=name, code="unsupported_field"
        )
    if row["type"] == "missing":
        return bad_request(f"the field {name or 'body'} is missing", param=name or None)
    messages = dict.fromkeys(other["msg"] for where, other in found if where == place)
    given = json.dumps(row.get("input"), default=str)[:80]
    return bad_request(f"{name or 'the body'}: {', or '.join(messages)}; it is {given}", param=name or None)


def _place(row: Row, body: object) -> Place:
    """Where the error is: the names that pydantic gives to the members of a union are left out."""
    kind, (source, *rest) = row["type"], row["loc"]
    if source != "body" or kind == "json_invalid":
        return () if kind == "json_invalid" else tuple(rest)
    if kind == "missing" and rest:
        return *(_path(rest[:-1], body, row, rest[-1]) or _walked(rest[:-1], body)), rest[-1]
    place = _path(rest, body, row) or _walked(rest, body)
    return (*place, "type") if kind in _TAG else place


def _path(parts: Sequence[str | int], value: object, row: Row, absent: object = None) -> Place | None:
    """The way from `value` along those parts that are keys, to what the error is about.

    That is its input, or for a missing field an object without it. None where there is no such way.
    """
    if not parts:
        here = isinstance(value, dict) and absent not in value if absent is not None else value is row["input"]
        return () if here else None
    first, rest = parts[0], parts[1:]
    found, inner = _child(value, first)
    if found and (way := _path(rest, inner, row, absent)) is not None:
        return first, *way
    return _path(rest, value, row, absent) if isinstance(first, str) else None


def _walked(parts: Sequence[str | int], value: object) -> Place:
    """Those parts that are keys on the way."""
    place: list[str | int] = []
    for part in parts:
        found, inner = _child(value, part)
        if found:
            place.append(part)
            value = inner
    return tuple(place)


def _child(value: object, key: str | int) -> tuple[bool, object]:
    """Whether there is something at this key, and what."""
    if isinstance(value, dict) and key in value:
        return True, value[key]
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return True, value[key]
    return False, None
