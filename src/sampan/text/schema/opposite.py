"""The opposite of a schema, and whether two schemas exclude each other, where that can be said in a schema.

Both err on the safe side: what the opposite allows is never valid by the schema, and what is said to be
exclusive is.
"""

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from sampan.text.schema.keywords import OBEYED

Resolve = Callable[[str], Any]
"""The schema that a `$ref` leads to; None where that is not known."""

_KINDS = ("null", "boolean", "object", "array", "string", "number")
_LONGEST, _LONGEST_TEXT = 2_000, 100  # characters of all texts that a pattern excludes, and of one
_DEEPEST, _MOST_STEPS = 12, 20_000
_TURNED = {
    "minLength": ("string", "maxLength", -1), "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1), "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
    "minimum": ("number", "exclusiveMaximum", 0), "maximum": ("number", "exclusiveMinimum", 0),
    "exclusiveMinimum": ("number", "maximum", 0), "exclusiveMaximum": ("number", "minimum", 0),
}  # fmt: skip
_OF = {"string": "Length", "array": "Items", "object": "Properties"}


class NoOpposite(Exception):
    """A keyword has no opposite that a schema can state."""


class Logic:
    """Of the schemas of one document. It takes a bounded number of steps, and then knows nothing more."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._left = _MOST_STEPS

    def opposite(self, schema: Any, depth: int = 0) -> Any:
        """A schema of what this one does not allow. Raises `NoOpposite` with the keyword that has none."""
        if isinstance(schema, bool):
            return not schema
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            raise NoOpposite("$ref")
        options: list[Any] = []
        for keyword, value in schema.items():
            if keyword in OBEYED:
                options += self._turned(keyword, value, depth + 1)
        options = [option for option in options if option is not False]
        return {"anyOf": options} if options else False

    def _turned(self, keyword: str, value: Any, depth: int) -> list[Any]:
        """What breaks one keyword, a schema each."""
        if keyword in _PLAIN:
            return _PLAIN[keyword](value)
        if keyword in _TURNED:
            if isinstance(value, bool):  # of draft 4: the bound itself is turned
                return []
            kind, other, more = _TURNED[keyword]
            return [{"type": kind, other: value + more}] if value + more >= 0 or kind == "number" else []
        if keyword == "properties":
            return [
                {"type": "object", "properties": {name: turned}, "required": [name]}
                for name, part in value.items()
                if (turned := self.opposite(part, depth)) is not False
            ]
        if keyword in ("anyOf", "allOf"):
            turned = [self.opposite(part, depth) for part in value]
            return turned if keyword == "allOf" else [False if False in turned else {"allOf": turned}]
        if keyword == "$ref" and (target := self._resolve(value)) is not None:
            return [self.opposite(target, depth)]
        if value is True and keyword in ("additionalProperties", "items", "additionalItems"):
            return []
        raise NoOpposite(keyword)

    def exclusive(self, one: Any, other: Any, depth: int = 0) -> bool:
        """Whether no value is valid by both, as far as can be told."""
        self._left -= 1
        if one is False or other is False:
            return True
        if one is True or other is True or depth > _DEEPEST or self._left < 0:
            return False
        if self._part_excludes(one, other, depth + 1) or self._part_excludes(other, one, depth + 1):
            return True
        shared = _types(one) & _types(other)
        if not shared:
            return True
        left, right = _finite(one), _finite(other)
        if left is not None and right is not None:
            return not left & right
        if shared == {"object"}:
            return any(self._names_exclude(a, b, depth) for a, b in ((one, other), (other, one)))
        return len(shared) == 1 and _ranges_exclude(one, other, next(iter(shared)))

    def _part_excludes(self, one: Mapping[str, Any], other: Any, depth: int) -> bool:
        """Whether a schema inside the first excludes the other."""
        target = self._resolve(one["$ref"]) if "$ref" in one else None
        if target is not None and self.exclusive(target, other, depth):
            return True
        if any(self.exclusive(part, other, depth) for part in one.get("allOf", ())):
            return True
        options = [one[keyword] for keyword in ("anyOf", "oneOf") if keyword in one]
        return any(all(self.exclusive(part, other, depth) for part in parts) for parts in options)

    def _names_exclude(self, one: Mapping[str, Any], other: Mapping[str, Any], depth: int) -> bool:
        """Whether what the first requires is nothing that the other allows."""
        closed = other.get("additionalProperties") is False and not other.get("patternProperties")
        mine, given = one.get("properties", {}), other.get("properties", {})
        for name in one.get("required", ()):
            theirs = given.get(name, not closed)
            if theirs is False:
                return True
            both = name in other.get("required", ())
            if both and self.exclusive(mine.get(name, True), theirs, depth + 1):
                return True
        return False


def _other_types(value: Any) -> list[Any]:
    given = [value] if isinstance(value, str) else value
    taken = {"number" if each == "integer" else each for each in given}
    others = [kind for kind in _KINDS if kind not in taken]
    return [{"type": others}] if others else []


def _other_values(values: list[Any]) -> list[Any]:
    """All values but these."""
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(_kind(value), []).append(value)
    options = _other_types(list(kinds))
    for kind, found in kinds.items():
        if kind == "boolean":
            options += [{"enum": [each]} for each in (True, False) if each not in found]
        elif kind == "number":
            ends = sorted(set(found))
            options += [{"type": kind, "exclusiveMaximum": ends[0]}]
            options += [{"type": kind, "exclusiveMinimum": ends[-1]}]
            options += [
                {"type": kind, "exclusiveMinimum": a, "exclusiveMaximum": b} for a, b in pairwise(ends)
            ]
        elif kind == "string":
            options.append({"type": kind, "pattern": _other_texts(found)})
        elif kind != "null":
            if any(found):
                raise NoOpposite("enum")
            options.append({"type": kind, f"min{_OF[kind]}": 1})
    return options


def _other_texts(texts: list[str]) -> str:
    """A pattern of every text but these."""
    if sum(map(len, texts)) > _LONGEST:
        raise NoOpposite("enum")

    def rest(after: set[str], depth: int) -> str:
        if depth > _LONGEST_TEXT:
            raise NoOpposite("enum")
        heads = sorted({text[0] for text in after if text})
        parts = [] if "" in after else [""]
        parts.append(f"[^{''.join(map(_sign, heads))}][\\s\\S]*" if heads else "[\\s\\S]+")
        for head in heads:
            parts.append(_sign(head) + rest({t[1:] for t in after if t[:1] == head}, depth + 1))
        return f"({'|'.join(parts)})"

    return f"^{rest(set(texts), 0)}$"


def _sign(sign: str) -> str:
    return f"\\x{{{ord(sign):x}}}"


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {type(None): "null", dict: "object", list: "array", str: "string"}
    return names.get(type(value), "number")


def _types(schema: Mapping[str, Any]) -> set[str]:
    values = _values(schema)
    if values is not None:
        return {_kind(value) for value in values}
    given = schema.get("type", list(_KINDS))
    kinds = [given] if isinstance(given, str) else given
    kinds = [*kinds, "null"] if schema.get("nullable") else kinds
    return {"number" if each == "integer" else each for each in kinds}


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    found = [schema["const"]] if "const" in schema else schema.get("enum")
    return found if isinstance(found, list) else None


def _finite(schema: Mapping[str, Any]) -> set[str] | None:
    values = _values(schema)
    return None if values is None else {json.dumps(_plain(value), sort_keys=True) for value in values}


def _plain(value: Any) -> Any:
    """A value in which 1.0 is written as 1: they are equal."""
    return json.loads(
        json.dumps(value), parse_float=lambda d: int(float(d)) if float(d) % 1 == 0 else float(d)
    )


def _ranges_exclude(one: Mapping[str, Any], other: Mapping[str, Any], kind: str) -> bool:
    name = _OF.get(kind)
    for a, b in ((one, other), (other, one)):
        if name is not None and a.get(f"min{name}", 0) > b.get(f"max{name}", float("inf")):
            return True
        if kind == "number" and _above(a, b):
            return True
    return False


def _above(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the numbers of one are all above those of the other."""
    for low, high in (("minimum", "exclusiveMaximum"), ("exclusiveMinimum", "maximum")):
        a, b = one.get(low), other.get(high)
        if not isinstance(a, bool | None) and not isinstance(b, bool | None) and a >= b:
            return True
    a, b = one.get("minimum"), other.get("maximum")
    return not isinstance(a, bool | None) and not isinstance(b, bool | None) and a > b


_PLAIN: Mapping[str, Callable[[Any], list[Any]]] = {
    "type": _other_types,
    "const": lambda value: _other_values([value]),
    "enum": _other_values,
    "required": lambda names: [{"type": "object", "properties": {name: False}} for name in names],
    "not": lambda schema: [schema],
}
