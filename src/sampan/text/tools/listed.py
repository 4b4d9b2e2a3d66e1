"""The schemas of tools' arguments, held to the keys that they list.

JSON Schema allows further keys wherever `additionalProperties` says nothing. Who describes a function's
parameters means those that are listed, and models make up others: so an object that lists its properties has
no more, unless its schema asks for more. llama.cpp's common/json-schema-to-grammar.cpp reads schemas so, too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_MORE = ("additionalProperties", "patternProperties", "unevaluatedProperties")
_BRANCHES = ("anyOf", "oneOf")
_OBJECT = ("properties", "required", "minProperties", "propertyNames", *_MORE)
_IN_PLACE = (*_BRANCHES, "allOf", "if", "then", "else", "not", "dependentSchemas", "dependencies")
_LISTS = ("items", "prefixItems", "additionalItems", "additionalProperties", "contains", "propertyNames")
_NAMED = ("properties", "patternProperties")


def only_listed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which every object has the listed keys only, where that can be told from one place.

    It cannot where several schemas say together what an object is: those of `allOf`, and those beside others.
    """
    whole, shared = _read(schema)
    closed: dict[str, Any] = _closed(schema, whole - shared)
    return closed


def _read(schema: Mapping[str, Any]) -> tuple[set[int], set[int]]:
    """The schemas, by `id`, that alone say what an object is, and those that say so with others."""
    seen: tuple[set[int], set[int]] = set(), set()
    rest: list[tuple[Any, bool]] = [(schema, False)]
    while rest:
        part, shared = rest.pop()
        if isinstance(part, list):
            rest += [(each, shared) for each in part]
        elif isinstance(part, Mapping) and id(part) not in seen[shared]:
            seen[shared].add(id(part))
            rest += _parts(schema, part, shared or _is_shared(part))
    return seen


def _is_shared(schema: Mapping[str, Any]) -> bool:
    """Whether the schema and others in the same place speak of one object."""
    places = [name for name in (*_IN_PLACE, "$ref") if name in schema]
    if not places or any(name in schema for name in _OBJECT) or len(places) > 1:
        return bool(places)
    branches = schema[places[0]]
    return places[0] not in (*_BRANCHES, "$ref") and not (isinstance(branches, list) and len(branches) == 1)


def _parts(root: Any, schema: Mapping[str, Any], shared: bool) -> Iterator[tuple[Any, bool]]:
    for name in (*_IN_PLACE, *_LISTS):
        yield schema.get(name), shared
    for name in _NAMED:
        named = schema.get(name)
        yield list(named.values()) if isinstance(named, Mapping) else None, shared
    yield _found(root, schema.get("$ref")), shared


def _found(root: Any, pointer: Any) -> Any:
    """What a reference inside of the schema leads to; None for any other."""
    if not isinstance(pointer, str) or not pointer.startswith("#"):
        return None
    for name in pointer[1:].split("/")[1:]:
        key = name.replace("~1", "/").replace("~0", "~")
        root = root.get(key) if isinstance(root, Mapping) else None
    return root


def _closed(value: Any, whole: set[int]) -> Any:
    if isinstance(value, list):
        return [_closed(each, whole) for each in value]
    if not isinstance(value, Mapping):
        return value
    copy = {name: _closed(each, whole) for name, each in value.items()}
    properties, required = value.get("properties"), value.get("required", [])
    alone = id(value) in whole and not _is_shared(value) and not any(name in value for name in _MORE)
    if not alone or not isinstance(properties, Mapping) or not isinstance(required, list):
        return copy
    others = {name: True for name in required if isinstance(name, str) and name not in properties}
    if value.get("minProperties", 0) not in range(len(properties) + len(others) + 1):
        return copy
    return {**copy, "properties": {**copy["properties"], **others}, "additionalProperties": False}
