"""The methods that chat templates may call on texts, lists and objects, each charged before it runs."""

from collections.abc import Callable
from string import Formatter
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from markupsafe import Markup

from sampan.text.template.budget import (
    ITEM,
    budget,
    check_length,
    encoded_extent,
    extent,
    listed,
)

MAX_PIECES = 500_000  # that one text is cut into
_FIELD = 2000  # characters of one formatted value beyond its text: a width, a precision, a large number

Method = Callable[..., Any]
Rule = Callable[[Method, Any, tuple[Any, ...], dict[str, Any]], Any]

_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def call_method(method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a bound method on behalf of a template; `SecurityError` where it is not offered or too much."""
    owner, name = method.__self__, method.__name__
    rules = TEXT_METHODS if isinstance(owner, str) else _OTHERS.get(type(owner), {})
    if name not in rules:
        raise SecurityError(f"a template cannot call {name!r} of a {type(owner).__name__}")
    return rules[name](method, owner, args, kwargs)


def escaped_length(text: Any) -> int:
    """The length of `text` after HTML escaping."""
    if not isinstance(text, str):
        return 1
    if isinstance(text, Markup):
        return len(text)
    return len(text) + 4 * sum(map(text.count, "&<>'\""))


def line_count(text: str) -> int:
    """Not below the number of lines of `text`."""
    budget().spend(len(_LINE_ENDS) * len(text))
    return 1 + sum(map(text.count, _LINE_ENDS))


def check_format(text: str, values: tuple[Any, ...]) -> None:
    """Account for `str.format` and `%`: `values` are all that the fields of `text` can show."""
    fields = text.count("{") + text.count("%")
    longest = 0
    for value in values:
        size = encoded_extent(value, ascii)
        longest = max(longest, size.length + 4 * size.items)
    factor = 5 if isinstance(text, Markup) else 1
    check_length(len(text) + fields * (longest * factor + _FIELD))
    budget().spend(len(text) + fields * (longest + ITEM))


def format_fields(method: Method, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`str.format` through `method`, which keeps it from Python's internals."""
    budget().spend(ITEM * text.count("{"))
    for _, _, form, _ in Formatter().parse(text):
        if form and ("{" in form or _is_wide(form)):
            raise SecurityError(f"the format {form[:20]!r} can be too wide")
    check_format(text, (*args, *kwargs.values()))
    return budget().made(method(*args, **kwargs))


def _is_wide(form: str) -> bool:
    digits = "".join(c if c.isdigit() else " " for c in form[:1000])
    return len(form) > 1000 or any(len(run) > 3 for run in digits.split())


def _linear(method: Method, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mine = budget()
    mine.spend(4 * (len(text) + _sizes(args) if args else len(text)))
    found = method(*args, **kwargs)
    if isinstance(found, tuple):
        mine.pieces(found)
    return mine.made(found)


def _quadratic(method: Method, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Searches from the end, and sets of characters: the worst case looks at each pair."""
    if args:
        budget().spend(len(text) * _sizes(args))
    return _linear(method, text, args, kwargs)


def _sizes(args: tuple[Any, ...]) -> int:
    total = 0
    for arg in args:
        if isinstance(arg, str):
            total += len(arg)
        elif isinstance(arg, tuple):
            total += extent(arg).work
    return total


def _split(
    method: Method, text: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, from_end: bool = False
) -> Any:
    sep, most = _split_arguments(*args, **kwargs)
    length = len(sep) if isinstance(sep, str) and from_end else 1
    budget().spend(len(text) * max(length, 4))
    if not isinstance(most, int) or 0 <= most <= MAX_PIECES:
        parts = method(sep, most)
    else:
        parts = method(sep, MAX_PIECES)
        if len(parts) > MAX_PIECES:
            raise SecurityError(f"it cuts a text into more than {MAX_PIECES} pieces")
    budget().spend(ITEM * len(parts) // 4)
    budget().pieces(parts)
    return parts


def _split_arguments(sep: Any = None, maxsplit: Any = -1) -> tuple[Any, Any]:
    return sep, maxsplit


def _split_from_end(method: Method, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _split(method, text, args, kwargs, from_end=True)


def _split_lines(method: Method, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if line_count(text) > MAX_PIECES:
        raise SecurityError(f"it cuts a text into more than {MAX_PIECES} pieces")
    parts = method(*args, **kwargs)
    budget().spend(ITEM * len(parts) // 4)
    budget().pieces(parts)
    return parts


def _replace(method: Method, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    budget().spend(4 * (len(text) + _sizes(args)))
    match args:
        case (str() as old, str() as new, *rest):
            found = text.count(old)
            if rest and isinstance(rest[0], int) and rest[0] >= 0:
                found = min(found, rest[0])
            added = escaped_length(new) if isinstance(text, Markup) else len(new)
            length = len(text) + found * (added - len(old))
            check_length(length)
            budget().spend(4 * (len(text) + length + found))
    return budget().made(method(*args, **kwargs))


def _join(method: Method, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) != 1 or kwargs:
        return method(*args, **kwargs)
    items = listed(args[0])
    if isinstance(text, Markup):
        lengths = [escaped_length(item) for item in items if isinstance(item, str)]
        if len(lengths) < len(items):
            raise SecurityError("a marked text joins texts alone")
    else:
        lengths = [len(item) for item in items if isinstance(item, str)]
    length = sum(lengths) + len(text) * len(items)
    check_length(length)
    budget().spend(length + ITEM // 4 * len(items))
    return budget().made(method(items))


def _pad(method: Method, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    width = args[0] if args and isinstance(args[0], int) else 0
    check_length(width)
    budget().spend(len(text) + max(width, 0))
    return budget().made(method(*args, **kwargs))


def _compared(method: Method, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`index` and `count` of a list, which compare every item with the first argument."""
    sought = args[0] if args else None
    size = encoded_extent(sought, repr)
    check_length(size.length + 4 * size.items)  # the error shows what was not found
    budget().spend((1 + size.work) * len(owner))
    return method(*args, **kwargs)


def _hashed(method: Method, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
    check_key(args[0] if args else None)
    return method(*args, **kwargs)


def check_key(key: Any) -> None:
    """Account for hashing `key`: a tuple hashes all it contains, shared parts again and again."""
    if isinstance(key, tuple):
        budget().spend(extent(key).work)


def _whole(method: Method, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    budget().spend(ITEM // 10 * len(owner))
    return budget().made(method(*args, **kwargs))


def _free(method: Method, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
    return method(*args, **kwargs)


def _changed(method: Method, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
    budget().spend(extent(args).work)
    return method(*args, **kwargs)


TEXT_METHODS: dict[str, Rule] = {
    **dict.fromkeys(["capitalize", "casefold", "lower", "swapcase", "title", "upper"], _linear),
    **dict.fromkeys(["count", "endswith", "find", "index", "partition", "startswith"], _linear),
    **dict.fromkeys(["removeprefix", "removesuffix"], _linear),
    **dict.fromkeys(["isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier"], _linear),
    **dict.fromkeys(["islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper"], _linear),
    **dict.fromkeys(["lstrip", "rfind", "rindex", "rpartition", "rstrip", "strip"], _quadratic),
    **dict.fromkeys(["center", "ljust", "rjust", "zfill"], _pad),
    "join": _join,
    "replace": _replace,
    "rsplit": _split_from_end,
    "split": _split,
    "splitlines": _split_lines,
}
_LIST: dict[str, Rule] = {"count": _compared, "index": _compared}
_OTHERS: dict[type, dict[str, Rule]] = {
    list: {**_LIST, "copy": _whole},
    tuple: _LIST,
    dict: {**dict.fromkeys(("items", "keys", "values"), _free), "get": _hashed, "copy": _whole},
    LoopContext: {"changed": _changed, "cycle": _free},
}
