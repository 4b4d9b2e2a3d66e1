"""The operators, tests, loops and literals of chat templates, each charged before it runs."""

import operator
import re
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Set, ValuesView
from typing import Any

from jinja2 import pass_environment
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined
from jinja2.tests import TESTS as NATURAL

from sampan.text.template.budget import (
    ITEM,
    PASS,
    STEP,
    Budget,
    budget,
    check_items,
    check_length,
    extent,
    listed,
    text_of,
)
from sampan.text.template.methods import call_method, check_format, check_key, escaped_length

_MAX_BITS = 1024  # of a whole number

_NUMBERS = (int, float, complex)
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "**": operator.pow,
    "%": operator.mod,
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}


def binary(sign: str, left: Any, right: Any) -> Any:
    """`left` and `right` joined by one of + - * ** %."""
    if sign == "+" and type(left) is str and type(right) is str:
        return _sum_of_texts(left, right)
    if isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS):
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(sign, left, right)
        return _BINARY[sign](left, right)
    if sign == "+":
        _check_sum(left, right)
    elif sign == "*":
        _check_repeat(left, right)
    elif sign == "%" and isinstance(left, str):
        _check_percent(left, right)
    elif isinstance(left, Set) or isinstance(right, Set):
        raise SecurityError(f"a template cannot use {sign} on a {type(left).__name__}")
    return budget().made(_BINARY[sign](left, right))


def _sum_of_texts(left: str, right: str) -> str:
    length = len(left) + len(right)
    check_length(length)
    mine = budget()
    mine.spend(STEP + length)
    return mine.made(left + right)


def _check_bits(sign: str, left: int, right: int) -> None:
    bits, more = left.bit_length(), right.bit_length()
    bits = bits * right if sign == "**" else bits + more if sign == "*" else max(bits, more)
    if bits > _MAX_BITS:
        raise SecurityError(f"it makes a number of more than {_MAX_BITS} bits")


def _check_sum(left: Any, right: Any) -> None:
    if isinstance(left, str) and isinstance(right, str):
        length = escaped_length(left) + escaped_length(right)  # one of them is marked as safe
        check_length(length)
        budget().spend(STEP + length)
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        check_items(len(left) + len(right))
        budget().spend(STEP + ITEM // 10 * (len(left) + len(right)))


def _check_repeat(left: Any, right: Any) -> None:
    value, times = (right, left) if isinstance(left, int) else (left, right)
    if isinstance(times, int) and isinstance(value, str | list | tuple):
        length = len(value) * max(times, 0)
        if isinstance(value, str):
            check_length(length)
            budget().spend(STEP + length)
        else:
            check_items(length)
            budget().spend(STEP + ITEM // 10 * length)


def _check_percent(text: str, values: Any) -> None:
    if "*" in text or re.search(r"\d{4}", text):
        raise SecurityError("a text before % can hold no * and no number of four digits: it may be too wide")
    given = values if isinstance(values, tuple) else (values,)
    check_format(text, given)


def compare(left: Any, name: str, right: Any, *rest: Any) -> Any:
    """A chain of comparisons: `rest` goes on with names of operators and operands in turn."""
    if name in ("in", "notin"):
        if type(right) is not dict or type(left) is not str:
            right = _searched(left, right)
    elif type(left) is not int:
        budget().spend(_equal_work(left, right))
    found = _COMPARISONS[name](left, right)
    return compare(right, *rest) if rest and found else found


def _equal_work(left: Any, right: Any) -> int:
    if isinstance(left, str) and isinstance(right, str):
        return ITEM // 10 + min(len(left), len(right))
    plain = (str, int, float, type(None))
    if isinstance(left, plain) or isinstance(right, plain):
        return ITEM // 10
    return min(extent(_viewed(left)).work, extent(_viewed(right)).work)


def _viewed(value: Any) -> Any:
    return listed(value) if isinstance(value, KeysView | ValuesView | ItemsView) else value


def _searched(left: Any, right: Any) -> Any:
    """`right` as `in` may look through it, charged for that."""
    if isinstance(right, str):
        budget().spend(ITEM // 10 + 4 * (len(right) + (len(left) if isinstance(left, str) else 0)))
        return right
    if isinstance(right, dict | KeysView):
        check_key(left)
        budget().spend(ITEM // 10)
        return right
    if isinstance(right, Undefined | range) or not hasattr(type(right), "__iter__"):
        budget().spend(ITEM // 10 * (1 + len(right) if isinstance(right, range) else 1))
        return right
    items = listed(right)
    if isinstance(left, list | tuple | dict):
        budget().spend(extent(items).work)
    else:
        length = len(left) if isinstance(left, str) else 0
        budget().spend((20 + length) * len(items))
    return items


def part(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """`value[start:stop:step]`."""
    if isinstance(value, str | list | tuple):
        length = len(range(*slice(start, stop, step).indices(len(value))))
        budget().spend(ITEM + length)
    return budget().made(value[start:stop:step])


def joined(parts: list[Any]) -> str:
    """The operands of `~` as one text."""
    return concat([text_of(item) for item in parts])


def concat(parts: Any) -> str:
    """The texts `parts` as one."""
    if not isinstance(parts, list):
        parts = _counted(parts)
    length = sum(map(len, parts))
    check_length(length)
    budget().spend(STEP + length + ITEM // 10 * len(parts))
    return budget().made("".join(parts))


def _counted(parts: Iterator[str]) -> list[str]:
    found = []
    for text in parts:
        budget().spend(ITEM)
        found.append(text)
    return found


def literal(value: Any) -> Any:
    """A list, tuple or object that the template writes out."""
    budget().spend(STEP // 2)
    return budget().made(value)


def key(value: Any) -> Any:
    """A key of an object that the template writes out."""
    check_key(value)
    return value


class Passes:
    """What a loop runs over: every pass is charged when it comes."""

    __slots__ = ("_budget", "_items")

    def __init__(self, items: Any) -> None:
        self._budget: Budget = budget()
        self._items = items if hasattr(items, "__len__") else listed(items)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return self._charged(iter(self._items))

    def _charged(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self._budget.spend(PASS)
            yield item


def mapping(value: Any) -> Any:
    """What `**` takes apart."""
    if isinstance(value, Mapping):
        check_items(len(value))
        budget().spend(ITEM * len(value))
    return value


OPERATORS: dict[str, Callable[..., Any]] = {  # as filters; no template can write these names
    "the comparison": compare,
    "the items": listed,
    "the joined": joined,
    "the key": key,
    "the literal": literal,
    "the mapping": mapping,
    "the part": part,
    "the passes": Passes,
}


def _comparison(name: str) -> Callable[[Any, Any], Any]:
    return lambda value, other: compare(value, name, other)


def _remainder_test(sought: int) -> Callable[[Any], bool]:
    return lambda value: bool(binary("%", value, 2) == sought)


def _text_test(method: str) -> Callable[[Any], Any]:
    return lambda value: call_method(getattr(text_of(value), method), (), {})


@pass_environment
def _is_filter(environment: Environment, value: Any) -> bool:
    check_key(value)
    return value in environment.filters


@pass_environment
def _is_test(environment: Environment, value: Any) -> bool:
    check_key(value)
    return value in environment.tests


_COMPARING = {
    "eq": ("==", "eq", "equalto"),
    "ne": ("!=", "ne"),
    "gt": (">", "gt", "greaterthan"),
    "gteq": (">=", "ge"),
    "lt": ("<", "lt", "lessthan"),
    "lteq": ("<=", "le"),
    "in": ("in",),
}
TESTS: dict[str, Callable[..., Any]] = {
    **dict[str, Any](NATURAL),
    **{alias: _comparison(name) for name, aliases in _COMPARING.items() for alias in aliases},
    "divisibleby": lambda value, num: binary("%", value, num) == 0,
    "even": _remainder_test(0),
    "odd": _remainder_test(1),
    "filter": _is_filter,
    "test": _is_test,
    "lower": _text_test("islower"),
    "upper": _text_test("isupper"),
}
