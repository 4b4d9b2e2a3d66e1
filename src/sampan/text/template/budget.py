"""What one rendering of a chat template may still do: work, processor time, and what it keeps in memory.

Whatever a template runs is charged here before it runs, by the size of what goes in; what it makes is
registered by the size of what comes out, and struck off once the template has dropped it. Containers are
measured deeply before they become text, so that a text too long is refused and never made.
"""

import threading
from collections.abc import Callable, Iterable
from itertools import chain
from sys import getrefcount, getsizeof
from time import thread_time
from types import BuiltinMethodType, FunctionType, GeneratorType
from typing import Any, NamedTuple, TypeVar

from jinja2.exceptions import SecurityError
from jinja2.runtime import BlockReference, Macro, TemplateReference, Undefined
from markupsafe import Markup

MAX_STEPS = 500_000  # in one rendering: calls, texts made, four loop passes
MAX_SECONDS = 5.0  # of processor time, in one rendering
MAX_TEXT = 16_000_000  # characters of one text: four times the prompt of a million tokens
MAX_ITEMS = 1_000_000  # of one list or object
MAX_KEPT = 256_000_000  # bytes of what a rendering has made and still holds
MAX_DEPTH = 200  # of lists and objects that become text or are compared

STEP = 25_000  # the work of one step, counted in characters copied
PASS = STEP // 4  # the work of one loop pass
ITEM = STEP // 10  # the work of handling one item in Python
_STRIDE = 20 * STEP  # between two looks at the clock
_MAX_OPERATION = 2_000_000_000  # the work of one operation, about two seconds

_SMALL = 200  # bytes that an item is taken for; a larger text is registered by itself
_LARGE = 1000  # the same where items may be functions and the like
_ENTRY = 200  # bytes that the register takes for one value
_SWEEP = 32_000_000  # bytes made between two looks at what is still held
_FEW = 500  # items that are counted without looking for shared ones
_ROUGH = 1_000_000  # characters up to which a length need not be exact
_WIDEST = 12  # characters that one can be encoded with: two escapes of six
_CHUNK = 100_000  # characters encoded at a time to learn an exact length

_ATOMS = (int, float, complex, type(None))
_CONTAINERS = (list, tuple, dict)
_SMALL_TYPES = frozenset({str, Markup, int, float, bool, type(None), list, tuple, dict, range, Undefined})
_SHORT = (  # their text is short, and they are equal to themselves alone
    *(Macro, TemplateReference, BlockReference, range),
    *(FunctionType, BuiltinMethodType, GeneratorType, type),
)

T = TypeVar("T")


class Budget:
    """What one rendering may still do; `SecurityError` tells which bound was hit."""

    def __init__(self) -> None:
        self._left = _STRIDE
        self._spent = 0
        self._end = thread_time() + MAX_SECONDS
        self._made: dict[int, object] = {}
        self._sizes: dict[int, int] = {}
        self._kept = 0
        self._sweep_at = _SWEEP

    def spend(self, work: int) -> None:
        """Account for work that is about to be done."""
        self._left -= work
        if self._left < 0:
            self._check()

    def _check(self) -> None:
        if -self._left > _MAX_OPERATION:
            raise SecurityError("one operation takes too long: its texts or lists are too large")
        self._spent += _STRIDE - self._left
        self._left = _STRIDE
        if self._spent > MAX_STEPS * STEP:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")
        if thread_time() > self._end:
            raise SecurityError(f"it computes for more than {MAX_SECONDS:g} seconds")

    def made(self, value: T) -> T:
        """Register what an operation has made, where it is a text or a container; returns it."""
        if isinstance(value, str):
            if len(value) * 4 > _SMALL:
                check_length(len(value))
                size = getsizeof(value)
                if size > _SMALL:
                    self.keep(value, size)
        elif isinstance(value, list | tuple | dict) and value:
            check_items(len(value))
            size = _item_size(value)
            if isinstance(value, dict):
                size += _item_size(value.values())
            self.keep(value, getsizeof(value) + len(value) * size)
        return value

    def pieces(self, values: list[str] | tuple[str, ...]) -> None:
        """Register texts cut out of one text, and what holds them."""
        self.made(values)
        for value in values:
            self.made(value)

    def keep(self, value: object, size: int) -> None:
        """Count `value` for `size` bytes until nothing but this register refers to it."""
        size += _ENTRY
        self._kept += size - self._sizes.get(id(value), 0)
        self._made[id(value)] = value
        self._sizes[id(value)] = size
        if self._kept > self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        self.spend(len(self._made))
        for key, count in zip(tuple(self._made), _references(self._made), strict=True):
            if count <= _UNUSED:
                del self._made[key], self._sizes[key]
        self._kept = sum(self._sizes.values())
        self._sweep_at = min(self._kept + max(_SWEEP, self._kept // 2), MAX_KEPT)
        if self._kept > MAX_KEPT:
            raise SecurityError(f"it keeps more than {MAX_KEPT // 1_000_000} MB of texts and lists")


def _references(register: dict[int, object]) -> list[int]:
    return [getrefcount(value) for value in register.values()]


_UNUSED = _references({0: object()})[0]  # references to what nothing but a register holds


def _item_size(values: Iterable[object]) -> int:
    return _SMALL if _SMALL_TYPES.issuperset(map(type, values)) else _LARGE


class _Active(threading.local):
    budget: Budget | None = None


active = _Active()  # the rendering that this thread is in


def budget() -> Budget:
    """The budget of the rendering that this thread is in."""
    found = active.budget
    assert found is not None, "templates run inside Environment.render"
    return found


def check_length(length: int) -> None:
    """Raise `SecurityError` for a text that no prompt can need."""
    if length > MAX_TEXT:
        raise SecurityError(f"it makes a text of more than {MAX_TEXT} characters")


def check_items(count: int) -> None:
    """Raise `SecurityError` for a list or an object that no prompt can need."""
    if count > MAX_ITEMS:
        raise SecurityError(f"it makes a list of more than {MAX_ITEMS} items")


class Extent(NamedTuple):
    """A value with all it contains, what it contains twice counted twice."""

    items: int
    length: int  # characters of all texts
    depth: int

    @property
    def work(self) -> int:
        """The work of walking through it."""
        return self.length + self.items * 20


class _Measure:
    """Sums up a value, looking into each container once however often it occurs."""

    def __init__(self, encode: Callable[[str], str] | None) -> None:
        """`encode`: what texts become before they are measured."""
        self._encode = encode
        self._known: dict[int, Extent] = {}
        self._budget = budget()

    def of(self, value: Any, depth: int = 0) -> Extent:
        if isinstance(value, str):
            return Extent(1, self._text(value) + 10, 0)  # ten: the class is named where it is not str
        if isinstance(value, _ATOMS):
            return Extent(1, _atom_length(value), 0)
        if not isinstance(value, _CONTAINERS):
            return Extent(1, _short_length(value), 0)
        known = self._known.get(id(value))
        if known is None and depth < MAX_DEPTH:
            known = self._known[id(value)] = self._container(value, depth)
        if known is None or depth + known.depth > MAX_DEPTH:
            raise SecurityError(f"its lists and objects are nested deeper than {MAX_DEPTH} levels")
        return known

    def _container(self, value: Any, depth: int) -> Extent:
        self._budget.spend(ITEM * (1 + len(value)))
        parts = chain(value, value.values()) if isinstance(value, dict) else value
        items, length, height = 1, 0, 0
        for part in parts:
            if type(part) is str:
                items += 1
                length += self._text(part)
            else:
                inner = self.of(part, depth + 1)
                items += inner.items
                length += inner.length
                height = max(height, inner.depth)
        return Extent(items, length, height + 1)

    def _text(self, text: str) -> int:
        if self._encode is None:
            return len(text)
        self._budget.spend(4 * len(text))
        pieces = (text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK))
        return sum(len(self._encode(piece)) for piece in pieces) + text.count("'")


def _atom_length(value: object) -> int:
    return value.bit_length() // 3 + 8 if isinstance(value, int) else 60


def _short_length(value: object) -> int:
    if isinstance(value, Undefined):
        return 20
    if isinstance(value, _SHORT):
        return len(str(value))
    name = type(value).__name__.strip("_").lower()
    raise SecurityError(f"a {name} can neither become text nor be compared")


def _small_extent(value: Any) -> Extent | None:
    """The extent of a value of few plain items, by the short way: None for all others."""
    level, items, length, depth = [value], 0, 0, 0
    while level:
        items += len(level)
        if items > _FEW or depth > MAX_DEPTH:
            return None
        below: list[Any] = []
        for part in level:
            kind = type(part)
            if kind is str:
                length += len(part)
            elif kind is dict and len(part) <= _FEW:
                below.extend(part)
                below.extend(part.values())
            elif kind is list and len(part) <= _FEW:
                below.extend(part)
            elif part is None or kind is bool:
                length += 5
            else:
                return None
        level = below
        depth += 1
    return Extent(items, length, depth)


def extent(value: Any) -> Extent:
    """The extent of `value`; `SecurityError` where it is nested too deep, or holds what has none."""
    return _small_extent(value) or _Measure(None).of(value)


def encoded_extent(value: Any, encode: Callable[[str], str]) -> Extent:
    """The extent of `value` with each text encoded: not below it, and close to it where it is large."""
    rough = extent(value)
    if rough.length * _WIDEST < _ROUGH:
        return rough._replace(length=rough.length * _WIDEST)
    return _Measure(encode).of(value)


def text_of(value: Any) -> str:
    """`str(value)`, measured before it is made; a text stays what it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, _ATOMS):
        return str(value)
    if isinstance(value, _CONTAINERS):
        size = encoded_extent(value, repr)
        check_length(size.length + 4 * size.items)
        budget().spend(4 * size.work)
        return budget().made(str(value))
    budget().spend(_short_length(value))
    return str(value)


def listed(value: Any) -> Any:
    """`value` itself where it is a list or a tuple, otherwise a list of its items."""
    if isinstance(value, list | tuple):
        return value
    if hasattr(value, "__len__"):
        check_items(len(value))
        budget().spend(ITEM * len(value))
    return budget().made(list(value))
