"""The filters of chat templates, each charged before it runs.

Offered are those that published templates use and that have a bound; the others are refused by name.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any

from jinja2 import pass_context, pass_environment
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS as NATURAL
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context, Undefined
from markupsafe import Markup, escape

from sampan.text.template.budget import (
    ITEM,
    budget,
    check_length,
    encoded_extent,
    extent,
    listed,
    text_of,
)
from sampan.text.template.methods import MAX_PIECES, call_method, escaped_length, line_count
from sampan.text.template.operators import binary

_MAX_NAME = 1000  # characters of an attribute's name, an indentation, a separator
_MAX_NUMBER = 10_000  # characters of a number as text
_FEW_PIECES = 10_000  # of JSON, which may all be kept at once
_MAX_TITLE = 200_000  # characters: each word is a piece of its own


def _refused(name: str) -> Callable[..., Any]:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise SecurityError(f"chat templates are not offered the filter {name!r}")

    return refuse


def _short(value: Any, most: int = _MAX_NAME) -> Any:
    if isinstance(value, str) and len(value) > most:
        raise SecurityError(f"a name or a number of more than {most} characters")
    return value


def _method_filter(name: str) -> Callable[[Any], Any]:
    def run(value: Any) -> Any:
        budget().spend(ITEM)
        return call_method(getattr(text_of(value), name), (), {})

    return run


def _trim(value: Any, chars: str | None = None) -> Any:
    text = text_of(value)
    budget().spend(ITEM + 4 * len(text))
    return budget().made(text.strip()) if chars is None else call_method(text.strip, (chars,), {})


def _replace(s: Any, old: Any, new: Any, count: int | None = None) -> Any:
    texts = [str(text_of(value)) for value in (s, old, new)]
    budget().spend(ITEM)
    return call_method(texts[0].replace, (texts[1], texts[2], -1 if count is None else count), {})


def _title(value: Any) -> str:
    text = _short(text_of(value), _MAX_TITLE)
    budget().spend(ITEM + 100 * len(text))
    return budget().made(str(NATURAL["title"](text)))


def _escape(value: Any) -> Markup:
    text = text_of(value)
    check_length(escaped_length(text))
    budget().spend(ITEM + 10 * len(text))
    return budget().made(escape(text))


def _safe(value: Any) -> Markup:
    text = text_of(value)
    budget().spend(ITEM + len(text))
    return budget().made(Markup(text))


def _indent(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
    if not isinstance(s, str):
        raise TypeError(f"indent takes a text, not a {type(s).__name__}")
    indention = len(_short(width)) if isinstance(width, str) else width
    lines = line_count(s)
    if lines > MAX_PIECES:
        raise SecurityError(f"it indents more than {MAX_PIECES} lines")
    length = len(s) + (lines + 1) * (max(indention, 0) + 1)
    check_length(length)
    budget().spend(4 * length + ITEM * lines)
    return budget().made(NATURAL["indent"](s, width, first, blank))


def _format(value: Any, *args: Any, **kwargs: Any) -> Any:
    if args and kwargs:
        raise TypeError("format takes either positional or named values")
    return binary("%", text_of(value), kwargs or args)


@pass_environment
def _join(environment: Environment, value: Any, d: Any = "", attribute: Any = None) -> str:
    items = listed(value)
    if attribute is not None:
        items = list(map(make_attrgetter(environment, _short(attribute)), items))
    texts = [text_of(item) for item in items]
    budget().spend(ITEM * (1 + len(texts)))
    return str(call_method(str(text_of(d)).join, (texts,), {}))


def _int(value: Any, default: Any = 0, base: int = 10) -> Any:
    found = NATURAL["int"](_short(value, _MAX_NUMBER), default, base)
    return binary("+", found, 0) if isinstance(found, int) and not isinstance(found, bool) else found


def _float(value: Any, default: Any = 0.0) -> Any:
    return NATURAL["float"](_short(value, _MAX_NUMBER), default)


def _round(value: Any, precision: int = 0, method: Any = "common") -> Any:
    if isinstance(precision, int) and abs(precision) > 100:
        raise SecurityError("it rounds to more than 100 digits")
    return NATURAL["round"](value, precision, method)


def _list(value: Any) -> list[Any]:
    budget().spend(ITEM)
    items = listed(value)
    return items if isinstance(items, list) else budget().made(list(items))


def _reverse(value: Any) -> Any:
    if isinstance(value, str):
        budget().spend(4 * len(value))
    elif not hasattr(value, "__reversed__") and not hasattr(value, "__getitem__"):
        return budget().made(listed(value)[::-1])
    return budget().made(NATURAL["reverse"](value))


def _items(value: Any) -> Iterator[Any]:
    if not isinstance(value, Mapping | Undefined):
        raise TypeError("Can only get item pairs from a mapping.")
    return _held(() if isinstance(value, Undefined) else listed(value.items()))


def _held(items: Any) -> Iterator[Any]:
    """A generator, as Jinja's filters return, over items that are already there."""
    return (item for item in items)


def _drawing(name: str) -> Callable[..., Any]:
    """A filter that looks at one item after the other; all of them now, so that chains stay flat."""
    natural = NATURAL[name]

    @pass_context
    def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        _short(kwargs.get("attribute"))
        if name.endswith("attr"):
            _short(args[0] if args else None)
        items = listed(value) if value else ()
        budget().spend(ITEM * (1 + len(items)))
        return _held(budget().made(list(natural(context, items, *args, **kwargs))))

    return run


def _ordering(name: str) -> Callable[..., Any]:
    """A filter that compares items with each other."""
    natural = NATURAL[name]

    @pass_environment
    def run(environment: Environment, value: Any, *args: Any, **kwargs: Any) -> Any:
        for argument in (*args, *kwargs.values()):
            _short(argument)
        items = listed(value)
        budget().spend(ITEM * len(items) + extent(items).work * (1 + len(items).bit_length()))
        found = natural(environment, items, *args, **kwargs)
        return _held(budget().made(list(found))) if name == "unique" else budget().made(found)

    return run


def _dictsort(value: Any, case_sensitive: bool = False, by: Any = "key", reverse: bool = False) -> Any:
    work = extent(value).work * (1 + len(value).bit_length()) if isinstance(value, dict) else 0
    budget().spend(ITEM + work)
    return budget().made(NATURAL["dictsort"](value, case_sensitive, by, reverse))


@pass_environment
def _sum(environment: Environment, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    items = listed(iterable)
    if attribute is not None:
        items = list(map(make_attrgetter(environment, _short(attribute)), items))
    budget().spend(ITEM * (1 + len(items)))
    if all(isinstance(item, int | float) for item in (start, *items)):
        return sum(items, start)
    for item in items:
        start = binary("+", start, item)
    return start


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, where Jinja's own filter escapes HTML."""
    size = encoded_extent(value, encode_basestring_ascii if ensure_ascii else encode_basestring)
    extra = 4 + sum(len(_short(text)) for text in separators or () if isinstance(text, str))
    if indent is not None:
        width = len(_short(indent)) if isinstance(indent, str) else indent
        extra += 1 + max(width, 0) * (size.depth + 1)
    length = size.length + extra * size.items
    check_length(length)
    budget().spend(ITEM + 4 * length + size.items * (ITEM // 10 if indent is None else ITEM))
    options: Any = {
        "ensure_ascii": ensure_ascii,
        "indent": indent,
        "separators": separators,
        "sort_keys": sort_keys,
    }
    if indent is None or size.items < _FEW_PIECES:
        return budget().made(json.dumps(value, **options))
    return budget().made(_written(json.JSONEncoder(**options), value))


def _written(encoder: json.JSONEncoder, value: Any) -> str:
    """What `json.dumps` makes in Python, without keeping its many pieces."""
    text = StringIO()
    for piece in encoder.iterencode(value):
        text.write(piece)
    return text.getvalue()


FILTERS: dict[str, Callable[..., Any]] = {
    **{name: _refused(name) for name in NATURAL},
    **{name: NATURAL[name] for name in ["abs", "attr", "count", "d", "default", "first", "last", "length"]},
    **{name: _drawing(name) for name in ["map", "reject", "rejectattr", "select", "selectattr"]},
    **{name: _method_filter(name) for name in ["capitalize", "lower", "upper"]},
    **{name: _ordering(name) for name in ["max", "min", "sort", "unique"]},
    "dictsort": _dictsort,
    "e": _escape,
    "escape": _escape,
    "float": _float,
    "format": _format,
    "indent": _indent,
    "int": _int,
    "items": _items,
    "join": _join,
    "list": _list,
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "safe": _safe,
    "string": text_of,
    "sum": _sum,
    "title": _title,
    "tojson": _to_json,
    "trim": _trim,
}
