"""Assertions that llguidance does not know, said by those that it does, where that stays small.

Each replaces keywords of one schema by further ones, all of which it must obey.
"""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import combinations, islice
from typing import Any

from sampan.text.schema.formats import encoded, narrow
from sampan.text.schema.keywords import OBEYED, TYPES, wrong
from sampan.text.schema.opposite import Logic, NoOpposite, Resolve

_MOST_ARRAYS = 350  # of distinct values, each as an option of its own
_MOST_VALUES = 64  # of a place in these
_VALUES: dict[str, list[Any]] = {"boolean": [False, True], "null": [None]}
_LISTS = ("draft-03", "draft-04", "draft-06", "draft-07", "2019-09")  # whose `items` may be a list
_MOST_PLACES = 16  # of an array, where an item may be
_MOST_OPTIONS = 24  # of a oneOf that are told apart by their opposites
_OF_NAMES = {"pattern", "enum", "const", "minLength", "maxLength", "type"}
_IN_PLACE = ("$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies", "not")

_NO_ARRAY = {"type": [kind for kind in TYPES if kind != "array"]}

More = list[Any]


class Rewriter:
    """`resolve`: where a `$ref` leads. `dialect`: the document's `$schema`. `overlaps`: options of a `oneOf`
    that is left as it is."""

    def __init__(self, resolve: Resolve, dialect: str) -> None:
        self._lists = any(draft in dialect for draft in _LISTS)
        self._old = any(draft in dialect for draft in _LISTS[:2])
        self._resolve, self._logic = resolve, Logic(resolve)
        self.overlaps: list[str] = []

    def rewrite(self, schema: dict[str, Any], place: str) -> None:
        """In place. Raises `RequestError` for what cannot be ensured."""
        steps: tuple[Callable[[dict[str, Any], str], More], ...] = (
            _unevaluated, _nullable, self._condition, self._not, _dependent, _names, self._contains,
            self._unique, self._one_of,
        )  # fmt: skip
        more: More = [*encoded(schema), *narrow(schema), *(_const(schema) if self._old else [])]
        for step in steps:
            more += step(schema, place)
        if more:
            schema["allOf"] = [*schema.get("allOf", []), *deepcopy(more)]

    def _opposite(self, schema: Any, keyword: str, place: str) -> Any:
        try:
            return self._logic.opposite(schema)
        except NoOpposite as found:
            why = f'cannot be ensured: "{found}" inside of it has no opposite that a grammar can state'
            raise wrong(place, keyword, why) from None

    def _condition(self, schema: dict[str, Any], place: str) -> More:
        condition, then, other = schema.pop("if", None), schema.pop("then", True), schema.pop("else", True)
        if condition is None or then is other is True:
            return []
        options = [{"allOf": [condition, then]}]
        if condition is not True:
            options.append({"allOf": [self._opposite(condition, "if", place), other]})
        return [{"anyOf": options}]

    def _not(self, schema: dict[str, Any], place: str) -> More:
        return [self._opposite(schema.pop("not"), "not", place)] if "not" in schema else []

    def _contains(self, schema: dict[str, Any], place: str) -> More:
        rule, least = schema.pop("contains", None), schema.pop("minContains", 1)
        if rule is None or least == 0:
            return []
        if rule is True:
            return [{"minItems": int(least)}]
        most = schema.get("maxItems")
        if least != 1 or most is None or most > _MOST_PLACES:
            raise wrong(place, "contains", f"is supported once, and with maxItems up to {_MOST_PLACES}")
        options = [self._array([*[True] * n, rule]) for n in range(int(most))]
        return [{"anyOf": [*options, _NO_ARRAY]}]

    def _array(self, items: list[Any], *, closed: bool = False) -> dict[str, Any]:
        """An array that begins with these items, or has no others, in the words of its draft."""
        first, rest = ("items", "additionalItems") if self._lists else ("prefixItems", "items")
        return {"type": "array", first: items, rest: not closed, "minItems": len(items)}

    def _unique(self, schema: dict[str, Any], place: str) -> More:
        if not schema.pop("uniqueItems", False) or schema.get("maxItems", 2) <= 1:
            return []
        if "array" not in schema.get("type", TYPES):
            return []
        first, rest = _places(schema)
        most = int(min(schema.get("maxItems", _MOST_VALUES), len(first) if rest is False else _MOST_VALUES))
        if rest is False and all(self._logic.exclusive(a, b) for a, b in combinations(first[:most], 2)):
            return []
        found = self._distinct(first, rest, int(schema.get("minItems", 0)), most)
        arrays = [] if found is None else list(islice(found, _MOST_ARRAYS + 1))
        if found is None or len(arrays) > _MOST_ARRAYS:
            raise wrong(place, "uniqueItems", "cannot be ensured but of items of an enum of at most 5")
        return [{"anyOf": [*arrays, _NO_ARRAY]}]

    def _distinct(
        self, first: list[Any], rest: Any, least: int, most: int
    ) -> Iterator[dict[str, Any]] | None:
        """Every array of distinct values; None where some of its places have no list of values."""
        ahead = [self._few(each) for each in first[:most]]
        behind = self._few(rest) if most > len(first) else []
        if None in ahead or behind is None:
            return None

        def grow(chosen: list[Any]) -> Iterator[list[Any]]:
            if len(chosen) >= least:
                yield chosen
            if len(chosen) < most:
                options = ahead[len(chosen)] if len(chosen) < len(ahead) else behind
                for value in options or ():
                    if not any(_equal(value, each) for each in chosen):
                        yield from grow([*chosen, value])

        arrays = ([{"const": each} for each in chosen] for chosen in grow([]))
        return (
            self._array(each, closed=True) if each else {"type": "array", "maxItems": 0} for each in arrays
        )

    def _few(self, schema: Any, depth: int = 0) -> list[Any] | None:
        """The different values that a schema allows, or some more, where it lists them."""
        schema = self._target(schema)
        if schema is False:
            return []
        if schema is True or depth > _MOST_PLACES:
            return None
        found = _listed(schema)
        for keyword in ("anyOf", "oneOf"):
            if found is None and keyword in schema:
                parts = [self._few(part, depth + 1) for part in schema[keyword]]
                found = None if None in parts else [value for part in parts for value in part or ()]
        if found is None or len(found) > _MOST_VALUES:
            return None
        return [value for n, value in enumerate(found) if not any(_equal(value, each) for each in found[:n])]

    def _target(self, schema: Any) -> Any:
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        return self._resolve(reference) if isinstance(reference, str) else schema

    def _one_of(self, schema: dict[str, Any], place: str) -> More:
        options = schema.get("oneOf")
        if options is None:
            return []
        options = [option for option in options if option is not False]
        pairs = [
            (a, b)
            for a, b in combinations(range(len(options)), 2)
            if not self._logic.exclusive(options[a], options[b])
        ]
        if pairs:
            told = self._told_apart(options, pairs) if len(options) <= _MOST_OPTIONS else None
            if told is None:
                a, b = (schema["oneOf"].index(options[n]) for n in pairs[0])
                self.overlaps.append(f"{place}/oneOf/{a} and {place}/oneOf/{b}")
                return []
            options = told
        del schema["oneOf"]
        return [{"anyOf": options}] if options else [False]

    def _told_apart(self, options: list[Any], pairs: list[tuple[int, int]]) -> list[Any] | None:
        """Each without what is valid by another too."""
        told = [[option] for option in options]
        try:
            for a, b in pairs:
                told[a].append(self._logic.opposite(options[b]))
                told[b].append(self._logic.opposite(options[a]))
        except NoOpposite:
            return None
        return [{"allOf": parts} if len(parts) > 1 else parts[0] for parts in told]


def _const(schema: dict[str, Any]) -> More:
    """Draft 4 does not know it, and llguidance keeps to that."""
    return [{"enum": [schema["const"]]}] if "const" in schema else []


def _unevaluated(schema: dict[str, Any], place: str) -> More:
    """Beside no other schema of the same value, what is not evaluated is what is additional."""
    for keyword, plain in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
        value = schema.pop(keyword, True)
        if value is True or plain in schema:
            continue
        if any(each in schema for each in _IN_PLACE) or (plain == "items" and "contains" in schema):
            raise wrong(place, keyword, f"is not supported beside $ref, allOf and the like: give {plain}")
        schema[plain] = value
    return []


def _nullable(schema: dict[str, Any], _place: str) -> More:
    """As OpenAPI 3.0.3 has it: a type allows null too."""
    if schema.pop("nullable", False) and "type" in schema:
        given = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = [*given, *(["null"] if "null" not in given else [])]
    return []


def _dependent(schema: dict[str, Any], _place: str) -> More:
    needed = {**schema.pop("dependencies", {}), **schema.pop("dependentSchemas", {})}
    lists = {name: each for name, each in needed.items() if isinstance(each, list)}
    more: More = [[name, each] for name, each in needed.items() if name not in lists and each is not True]
    lists |= schema.pop("dependentRequired", {})
    more += [[name, {"required": names}] for name, names in lists.items() if names]
    return [{"anyOf": [{"properties": {name: False}}, each]} for name, each in more]


def _names(schema: dict[str, Any], place: str) -> More:
    rule = schema.pop("propertyNames", True)
    if rule is True:
        return []
    if rule is False:
        return [{"maxProperties": 0}]
    unknown = sorted(OBEYED.intersection(rule) - _OF_NAMES)
    if unknown:
        raise wrong(place, "propertyNames", f"is not supported with {', '.join(unknown)}")
    if "string" not in rule.get("type", "string"):
        return [{"maxProperties": 0}]
    more: More = []
    if "pattern" in rule:
        more.append({"patternProperties": {rule["pattern"]: True}, "additionalProperties": False})
    if "minLength" in rule or "maxLength" in rule:
        least, most = int(rule.get("minLength", 0)), rule.get("maxLength", "")
        length = f"^[\\s\\S]{{{least},{most if most == '' else int(most)}}}$"
        more.append({"patternProperties": {length: True}, "additionalProperties": False})
    for keyword in ("enum", "const"):
        if keyword in rule:
            names = rule["enum"] if keyword == "enum" else [rule["const"]]
            listed = dict.fromkeys((name for name in names if isinstance(name, str)), True)
            more.append({"properties": listed, "additionalProperties": False})
    return more


def _places(schema: dict[str, Any]) -> tuple[list[Any], Any]:
    """The schemas of an array's first items, and that of all others."""
    items = schema.get("items", True)
    if isinstance(items, list):
        return items, schema.get("additionalItems", True)
    return schema.get("prefixItems", []), items


def _listed(schema: dict[str, Any]) -> list[Any] | None:
    """The values that a schema allows by its own keywords, where these are few."""
    if "const" in schema:
        return [schema["const"]]
    if isinstance(schema.get("enum"), list):
        return list(schema["enum"])
    kinds = schema.get("type")
    values: list[Any] = []
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        least, most = schema.get("minimum"), schema.get("maximum")
        if kind in _VALUES:
            values += _VALUES[kind]
        elif kind == "integer" and least is not None and most is not None and most - least < _MOST_VALUES:
            values += range(math.ceil(least), math.floor(most) + 1)
        else:
            return None
    return values


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
