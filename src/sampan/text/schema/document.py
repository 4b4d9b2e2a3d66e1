"""The schemas of a document that count: those that its root holds or leads to by references."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from sampan.core.errors import RequestError
from sampan.text.schema.keywords import DEFINITIONS, LISTS, MAPS, ONES, shortened

MAX_DEPTH = 64
_ONES = {*ONES, "items", "unevaluatedProperties", "unevaluatedItems"}

Place = tuple[str, Any]


class Document:
    """A schema that may refer to its own parts. `root`: it."""

    def __init__(self, root: Any) -> None:
        self._root = root

    def parts(self, schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every schema that counts, once, with its JSON pointer; those that hold others first, which may
        meanwhile be changed. What nothing refers to says nothing, and is left out."""
        seen = set[int]()
        rest: list[tuple[str, Any, int]] = [("#", schema, 0)]
        while rest:
            place, part, depth = rest.pop()
            if isinstance(part, bool) or id(part) in seen:
                continue
            where = f"the JSON schema at {shortened(place)}"
            if not isinstance(part, dict):
                raise RequestError(f"{where} is of type {type(part).__name__}: give an object")
            if depth > MAX_DEPTH:
                raise RequestError(f"{where} is nested too deeply: {MAX_DEPTH} levels are the most")
            seen.add(id(part))
            yield place, part
            found = [(inner, each, depth + 1) for inner, each in _inside(place, part)]
            found += [(inner, each, 0) for inner, each in self._led_to(place, part)]
            rest += reversed(found)

    def target(self, reference: str) -> Any:
        """The schema that a `$ref` leads to by a JSON pointer; None for any other."""
        if reference != "#" and not reference.startswith("#/"):
            return None
        value = self._root
        for token in reference.split("/")[1:]:
            name = unquote(token).replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and name in value:
                value = value[name]
            elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(value):
                value = value[int(name)]
            else:
                return None
        return value if isinstance(value, dict | bool) else None

    def _led_to(self, place: str, part: dict[str, Any]) -> list[Place]:
        """What a schema refers to; by other ways than a pointer from the root it may be any definition."""
        reference = part.get("$ref")
        renamed = place != "#" and isinstance(part.get("$id", part.get("id")), str)
        found: list[Place] = []
        if isinstance(reference, str):
            target = self.target(reference)
            if target is not None:
                found.append((reference, target))
            renamed = renamed or target is None
        if renamed:
            for holder, name in ((self._root, "#"), (part, place)):
                for keyword in DEFINITIONS:
                    inside = holder.get(keyword) if isinstance(holder, dict) else None
                    if isinstance(inside, dict):
                        found += [(f"{name}/{keyword}/{_escaped(key)}", each) for key, each in inside.items()]
        return found


def _inside(place: str, part: dict[str, Any]) -> Iterator[Place]:
    for keyword, value in part.items():
        inner = f"{place}/{_escaped(keyword)}"
        if keyword in MAPS and isinstance(value, dict):
            yield from ((f"{inner}/{_escaped(name)}", each) for name, each in value.items())
        elif keyword == "dependencies" and isinstance(value, dict):
            named = ((name, each) for name, each in value.items() if not isinstance(each, list))
            yield from ((f"{inner}/{_escaped(name)}", each) for name, each in named)
        elif (keyword in LISTS or keyword == "items") and isinstance(value, list):
            yield from ((f"{inner}/{number}", each) for number, each in enumerate(value))
        elif keyword in _ONES:
            yield inner, value


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
