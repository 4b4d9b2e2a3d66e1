"""What a request's validation found, as an error that names the field as the client wrote it."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from fastapi.exceptions import RequestValidationError

from sampan.core.errors import quoted
from sampan.server.errors import ApiError, bad_request

_MOST = 100  # errors that are looked at: a long list may have one an element
_MOST_WAYS = 64
_MEDIUM = re.compile(
    r"(input_)?(image|audio|video|file|document|pdf|media)(_url|_data|_file)?|container_upload"
)
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
    if isinstance(error.body, bytes):
        return bad_request("the body is not marked as JSON: send content-type: application/json")
    if row["type"] == "extra_forbidden":
        return bad_request(
            f"the field {name} is not supported here: leave it out", param=name, code="unsupported_field"
        )
    given = row.get("input")
    medium = _medium({"type": given} if place[-1:] == ("type",) and isinstance(given, str) else given)
    if medium is not None:
        return bad_request(f"{name}: this model reads text only: leave out {quoted(medium)}", param=name)
    if row["type"] == "missing":
        return bad_request(f"the field {name or 'body'} is missing", param=name or None)
    messages = dict.fromkeys(other["msg"] for where, other in found if where == place)
    text = f"{name or 'the body'}: {', or '.join(messages)}{_shown(row.get('input'))}"
    return bad_request(text, param=name or None)


def _medium(value: object) -> str | None:
    """What of an object says that it is an image, a sound or a file, in whatever form it comes."""
    if not isinstance(value, dict):
        return None
    names = [value.get("type"), *value] if isinstance(value.get("type"), str) else value
    return next((name for name in names if _MEDIUM.fullmatch(name)), None)


def _shown(value: object) -> str:
    """What was given, where it is short enough to say."""
    if isinstance(value, str):
        return f"; it is {json.dumps(value[:80])}"
    return f"; it is {json.dumps(value)[:80]}" if isinstance(value, int | float | None) else ""


def _place(row: Row, body: object) -> Place:
    """Where the error is: the names that pydantic gives to the members of a union are left out."""
    kind, (source, *parts) = row["type"], row["loc"]
    if kind == "json_invalid":
        return ()
    if source != "body":
        return tuple(parts)
    if kind == "missing" and parts:
        *parts, name = parts
        return *_way(parts, body, lambda value: isinstance(value, dict) and name not in value), name
    place = _way(parts, body, lambda value: value is row["input"])
    return (*place, "type") if kind in _TAG else place


def _way(parts: Sequence[str | int], body: object, fits: Callable[[object], bool]) -> Place:
    """Those parts that are keys on a way into the body, best to a value that fits.

    A name may be the tag of a union, a key, or both: then every reading is followed, up to a limit.
    """
    ways: dict[Place, object] = {(): body}
    for part in parts:
        further: dict[Place, object] = {}
        for place, value in ways.items():
            found, inner = _child(value, part)
            if found:
                further[*place, part] = inner
            if not found or isinstance(part, str):
                further.setdefault(place, value)
        ways = dict(islice(further.items(), _MOST_WAYS))
    last = tuple(parts[-1:])
    return max(ways, key=lambda place: (fits(ways[place]), place[-1:] == last, len(place)))


def _child(value: object, key: str | int) -> tuple[bool, object]:
    """Whether there is something at this key, and what."""
    if isinstance(value, dict) and key in value:
        return True, value[key]
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return True, value[key]
    return False, None
