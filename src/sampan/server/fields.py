"""What becomes of a request's fields that are not served: one rule for all endpoints.

A field that is not in a request's model is passed over, and told: in the answer's header `x-ignored-fields`,
in the log's line and in the metrics. It is refused by name in two cases: where ignoring it would give
another answer than was asked for (`lacked` of the model), and where its name is almost one that is served, so
that somebody meant that. Null is absence. A name that nobody here has heard of is passed over too: clients
bring new hints every month, and a service that refuses them locks out whoever updates first.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

from sampan.server.errors import ApiError, bad_request

_ALIKE = 0.85
"""Of two names: `temprature` and `temperature` have 0.95, `top_n` and `top_p` 0.75."""
_MOST = 100
_NOTHING: tuple[Any, ...] = (False, "", [], {})

TEXT_ONLY = "this model reads text only: leave it out"


class Lack(NamedTuple):
    """A field that asks for what this service does not do. `neutral`: values of it that ask for nothing."""

    why: str = "it is not supported here: leave it out"
    neutral: tuple[Any, ...] = ()

    def asked(self, value: object) -> bool:
        """Whether this value asks for it."""
        return value not in (self.neutral or _NOTHING)


def lacks(*names: str, why: str = Lack().why, neutral: tuple[Any, ...] = ()) -> dict[str, Lack]:
    """These fields, for the same reason."""
    return dict.fromkeys(names, Lack(why, neutral))


class Strict(BaseModel):
    """An object of a request. It refuses what only looks like the right type.

    `hints`: fields that are known and make no difference here; `lacked`: those that would.
    """

    model_config = ConfigDict(extra="ignore", strict=True)
    hints: ClassVar[frozenset[str]] = frozenset()
    lacked: ClassVar[Mapping[str, Lack]] = {}


class Skipped(Strict):
    """An object that is taken for its `type` alone, and passed over as a whole."""

    type: str


class Ignored(NamedTuple):
    """A field that was passed over: its place, without numbers. `known`: one of the documented hints."""

    name: str
    known: bool


Place = tuple[str | int, ...]


def passed_over(model: BaseModel, given: Mapping[str, Any]) -> set[Ignored]:
    """The fields of `given` that its `model` has not taken. A 400 for the first that must not be ignored, and
    for so many that looking at them would hold others up."""
    found: set[Ignored] = set()
    for field in _fields(model, given, ()):
        found.add(field)
        if len(found) > _MOST:
            raise bad_request(f"the request has more than {_MOST} fields that are not known here")
    return found


def _fields(model: BaseModel, given: Mapping[str, Any], place: Place) -> Iterator[Ignored]:
    taken = _attributes(type(model))
    for name, value in given.items():
        if value is None:
            continue
        if name in taken:
            yield from _within(getattr(model, taken[name]), value, (*place, name))
        elif isinstance(model, Strict) and not _silent(type(model), name, value, (*place, name)):
            yield Ignored(_told((*place, name)), name in model.hints)


def _within(value: object, given: object, place: Place) -> Iterator[Ignored]:
    if isinstance(value, Skipped):
        yield Ignored(_told((*place, value.type)), known=False)
    elif isinstance(value, BaseModel) and isinstance(given, dict):
        yield from _fields(value, given, place)
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel) and isinstance(given, list):
        for number, (child, raw) in enumerate(zip(value, given, strict=True)):
            yield from _within(child, raw, (*place, number))


def _silent(kind: type[Strict], name: str, value: object, place: Place) -> bool:
    """Whether an unknown field asks for nothing; a 400 for one that must not be ignored."""
    lack = kind.lacked.get(name)
    if lack is not None:
        if lack.asked(value):
            raise _refused(place, lack.why)
        return True
    if name not in kind.hints:
        meant = _meant(kind, name[:64])
        if meant is not None:
            raise _refused(place, f"there is no such field; did you mean {meant}?")
    return False


@lru_cache(1000)
def _meant(kind: type[Strict], name: str) -> str | None:
    """The field that is written almost so."""
    known = {_plain(field): field for field in _attributes(kind)}
    near = get_close_matches(_plain(name), known, 1, _ALIKE)
    return known[near[0]] if near else None


def _refused(place: Place, why: str) -> ApiError:
    name = ".".join(map(str, place))[:200].encode("utf-8", "replace").decode()
    return bad_request(f"{name}: {why}", param=name, code="unsupported_field")


def _told(place: Place) -> str:
    return ".".join(part for part in place if isinstance(part, str))


def _plain(name: str) -> str:
    """Without what different languages write differently: maxTokens, max_tokens, max-tokens."""
    return name.lower().replace("_", "").replace("-", "")


@cache
def _attributes(kind: type[BaseModel]) -> dict[str, str]:
    """Fields as the client writes them, and where the model has them."""
    return {field.alias or name: name for name, field in kind.model_fields.items()}
