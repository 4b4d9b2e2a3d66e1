"""Where the references of a schema lead, in the document as it was given: by pointers, anchors and ids.

Sources: JSON Schema's core (draft 2020-12, 8.2; 2019-09, 8.2.4.2.1 of `$recursiveRef`), RFC 6901 (pointers),
RFC 3986, 5 (what is relative to an id).
"""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urljoin

from sampan.text.schema.keywords import DEFINITIONS, LISTS, MAPS, ONES

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
NAMES = ("$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor")
"""What leads somewhere, and what can be led to."""
_ONES = {*ONES, "items", "unevaluatedProperties", "unevaluatedItems"}
_HIDING = ("draft-03", "draft-04", "draft-06", "draft-07")  # a `$ref` hides what stands beside it
_ITS_ID = ("draft-03", "draft-04")  # whose `$id` is `id`


class Ambiguous(Exception):
    """Where a dynamic reference leads depends on the way to it."""


class References:
    """Of one document, `root`."""

    def __init__(self, root: Any) -> None:
        self._root = root
        dialect = str(root.get("$schema")) if isinstance(root, dict) else ""
        self._id = "id" if any(draft in dialect for draft in _ITS_ID) else "$id"
        self._hiding = any(draft in dialect for draft in _HIDING)
        self._bases: dict[int, str] = {}  # of each schema the URI of the one that it is part of
        self._resources: dict[str, Any] = {"": root}
        self._anchors: dict[tuple[str, str], Any] = {}
        self._dynamic: dict[str, dict[str, Any]] = {}
        self._note(root, "")

    def target(self, schema: Mapping[str, Any], keyword: str) -> Any:
        """The schema that a reference of a known schema leads to, None for none. Raises `Ambiguous`."""
        base, reference = self._bases.get(id(schema), ""), schema[keyword]
        found = self._target(base, reference)
        if keyword == "$ref" or not isinstance(found, dict):
            return found
        if keyword == "$recursiveRef":
            if found.get("$recursiveAnchor") is not True:
                return found
            every = {uri: each for uri, each in self._resources.items() if _recursive(each)}
        else:
            name = reference.partition("#")[2]
            if found.get("$dynamicAnchor") != name:
                return found
            every = self._dynamic[name]
        # Every way begins at the root, and the outermost that has the name counts.
        outermost = every.get(self._bases[id(self._root)])
        if outermost is None and len({id(each) for each in every.values()}) > 1:
            raise Ambiguous
        return found if outermost is None else outermost

    def _target(self, base: str, reference: str) -> Any:
        path, _, fragment = reference.partition("#")
        uri = _joined(base, path)
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            return self._anchors.get((uri, fragment))
        if uri not in self._resources:
            return None
        value = self._resources[uri]
        for token in fragment.split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and name in value:
                value = value[name]
            elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(value):
                value = value[int(name)]
            else:
                return None
            uri = self._bases.get(id(value), uri) if isinstance(value, dict) else uri
        if not isinstance(value, dict | bool):
            return None
        self._note(value, uri)
        return value

    def _note(self, schema: Any, base: str) -> None:
        """Remember the names of a schema and of those inside of it; the first of a name counts."""
        rest: list[tuple[Any, str]] = [(schema, base)]
        while rest:
            part, base = rest.pop()
            if not isinstance(part, dict) or id(part) in self._bases:
                continue
            given = part.get(self._id)
            hidden = self._hiding and "$ref" in part and part is not self._root
            if isinstance(given, str) and not hidden:
                path, _, name = given.partition("#")
                base = _joined(base, path)
                if path or not name:
                    self._resources.setdefault(base, part)
                if name:
                    self._anchors.setdefault((base, name), part)
            self._bases[id(part)] = base
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(own := part.get(keyword), str):
                    self._anchors.setdefault((base, own), part)
                    if keyword == "$dynamicAnchor":
                        self._dynamic.setdefault(own, {}).setdefault(base, part)
            inner = [(each, base) for _, each in inside("", part)]
            inner += [(each, base) for _, each in defined("", part)]
            rest += reversed(inner)


def inside(place: str, part: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas that stand in a schema's assertions, with their JSON pointers."""
    for keyword, value in part.items():
        inner = f"{place}/{escaped(keyword)}"
        if keyword in MAPS and isinstance(value, dict):
            yield from ((f"{inner}/{escaped(name)}", each) for name, each in value.items())
        elif keyword == "dependencies" and isinstance(value, dict):
            named = ((name, each) for name, each in value.items() if not isinstance(each, list))
            yield from ((f"{inner}/{escaped(name)}", each) for name, each in named)
        elif (keyword in LISTS or keyword == "items") and isinstance(value, list):
            yield from ((f"{inner}/{number}", each) for number, each in enumerate(value))
        elif keyword in _ONES:
            yield inner, value


def defined(place: str, part: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The definitions of a schema, with their JSON pointers."""
    for keyword in DEFINITIONS:
        found = part.get(keyword)
        if isinstance(found, dict):
            yield from ((f"{place}/{keyword}/{escaped(name)}", each) for name, each in found.items())


def escaped(name: str) -> str:
    """A name as a JSON pointer has it."""
    return name.replace("~", "~0").replace("/", "~1")


def as_fragment(pointer: str) -> str:
    """A JSON pointer as a URI may have it."""
    return quote(pointer, safe="#/~!$&'()*+,;=:@?")


def _recursive(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("$recursiveAnchor") is True


def _joined(base: str, path: str) -> str:
    if not path:
        return base
    try:
        return urljoin(base, path)
    except ValueError:  # no URI: a name like any other
        return path
