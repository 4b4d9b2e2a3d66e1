"""The schemas of a document that count: those that its root holds or leads to by references."""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from sampan.core.errors import RequestError, quoted
from sampan.text.schema.keywords import DEFINITIONS, shortened, wrong
from sampan.text.schema.references import (
    NAMES,
    REFERENCES,
    Ambiguous,
    References,
    as_fragment,
    defined,
    inside,
)

MAX_DEPTH = 64
MOST_WRITTEN = 1 << 20  # bytes of all that is written out
TOO_LARGE = "the JSON schema is too large, its conditions written out: make it simpler"


class Document:
    """A schema that may refer to its own parts. `root`: it. `places`: what to call where references lead."""

    def __init__(self, root: Any, places: Mapping[str, str] | None = None) -> None:
        self._root, self._places = root, places or {}
        self._references = References(root)

    def parts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every schema that counts, once, with its JSON pointer; those that hold others first, which may
        meanwhile be changed. What nothing refers to says nothing, and is left out. Raises `RequestError`."""
        seen = set[int]()
        rest: list[tuple[str, Any, int]] = [("#", self._root, 0)]
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
            found = [(inner, each, depth + 1) for inner, each in inside(place, part)]
            for keyword, target in self._led_to(place, part):
                found.append((self._places.get(part[keyword], part[keyword]), target, 0))
            rest += reversed(found)

    def target(self, reference: str) -> Any:
        """The schema that a `$ref` of the root leads to; None for none."""
        return self._references.target({"$ref": reference}, "$ref")

    def _led_to(self, place: str, part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for keyword in REFERENCES:
            if keyword not in part:
                continue
            try:
                target = self._references.target(part, keyword)
            except Ambiguous:
                why = f"is {quoted(part[keyword])}, which leads elsewhere by each way to it: give $ref"
                raise wrong(place, keyword, why) from None
            if target is None:
                why = f"is {quoted(part[keyword])}, which leads to nothing in this document"
                raise wrong(place, keyword, why)
            yield keyword, target

    def flatten(self) -> "Document":
        """The same with pointers to definitions of its root, in place: what else is written out may take
        the place of what a reference leads to. Raises `RequestError` where that is too large."""
        parts = list(self.parts())
        if not isinstance(self._root, dict):
            return self
        led = [
            (part, keyword, target) for place, part in parts for keyword, target in self._led_to(place, part)
        ]
        taken = {pointer for pointer, _ in defined("#", self._root)}
        homes = {id(each): pointer for pointer, each in defined("#", self._root) if isinstance(each, dict)}
        added, places = dict[str, Any](), dict[str, str]()
        for part, keyword, target in led:
            if id(target) not in homes:
                name = f"ref-{len(added)}"
                while f"#/$defs/{name}" in taken:
                    name += "-"
                added[name], homes[id(target)] = target, f"#/$defs/{name}"
                places[f"#/$defs/{name}"] = part[keyword]
        for part, keyword, target in led:
            _lead(part, keyword, as_fragment(homes[id(target)]))
        reached = {id(part) for _, part in parts}
        for _, part in parts:
            _forget_names(part, reached if part is self._root else set())
        self._define(added)
        return Document(self._root, places)

    def _define(self, added: Mapping[str, Any]) -> None:
        """Definitions of the root, which may itself be one: llguidance takes a circle of references with
        other keywords beside them where all of it is named."""
        root = self._root
        definitions, size = root.pop("$defs", {}), 0
        rest = {keyword: root[keyword] for keyword in ("$schema", "definitions") if keyword in root}
        for name, target in added.items():
            size += len(json.dumps(target))
            if size > MOST_WRITTEN:
                raise RequestError(TOO_LARGE)
            definitions[name] = deepcopy(target)
            if target is root:
                for keyword in rest:
                    del definitions[name][keyword]
                rest["$ref"] = f"#/$defs/{name}"
        if "$ref" in rest:
            root.clear()
            root.update(rest)
        if definitions:
            root["$defs"] = definitions


def _lead(part: dict[str, Any], keyword: str, pointer: str) -> None:
    """Put a pointer in a reference's place."""
    del part[keyword]
    if "$ref" in part:
        part["allOf"] = [*part.get("allOf", []), {"$ref": pointer}]
    else:
        part["$ref"] = pointer


def _forget_names(part: dict[str, Any], kept: set[int]) -> None:
    """Take out what no reference needs any more. `kept`: the definitions to keep, of the document's root."""
    for keyword in NAMES:
        part.pop(keyword, None)
    for keyword in DEFINITIONS:
        found = part.pop(keyword, None)
        if isinstance(found, dict) and (named := {n: each for n, each in found.items() if id(each) in kept}):
            part[keyword] = named
