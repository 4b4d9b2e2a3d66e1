"""Typed access to what a file says of a model: each field is present, of its type and within bounds."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from sampan.core.errors import UnsupportedModel, WeightsError

TINY = 1e-30  # the least value of a number that must be positive

T = TypeVar("T")


@dataclass(frozen=True)
class Fields:
    """`values` of the file `source`; `prefix` stands before every name (`llama.` in GGUF).

    A field that is null counts as absent; an absent field without a default is a `WeightsError`, as is one
    of another type or outside its bounds.
    """

    values: Mapping[str, object]
    source: str
    prefix: str = ""

    def __contains__(self, name: str) -> bool:
        return self.values.get(self.prefix + name) is not None

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._value(name, default, int, "a whole number")
        if not low <= value <= high:
            raise self.fail(name, f"must be from {low} to {high}, not {str(value)[:40]}")
        return value

    def number(
        self, name: str, default: float | None = None, *, low: float = TINY, high: float = 1e9
    ) -> float:
        """A finite number from `low` to `high`."""
        value = self._value(name, default, float, "a number")
        if not low <= value <= high:
            raise self.fail(name, f"must be from {low:g} to {high:g}, not {str(value)[:40]}")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        return self._value(name, default, bool, "true or false")

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        return self._value(name, default, str, "a string")

    def section(self, name: str) -> "Fields":
        """The fields of a nested object; without it, no fields."""
        return Fields(self._value(name, {}, dict, "an object"), f"{self.source}: {name}")

    def fail(self, name: str, problem: str) -> WeightsError:
        """The error of one field; the caller raises it."""
        return WeightsError(f"{self.source}: {self.prefix}{name} {problem}")

    def _value(self, name: str, default: T | None, kind: type[T], meaning: str) -> T:
        value = self.values.get(self.prefix + name)
        if self.prefix and isinstance(value, list | array):
            value = self._of_all_layers(name, value)
        if value is None:
            value = default
        if value is None:
            raise self.fail(name, "is missing")
        if not _is(value, kind):
            raise self.fail(name, f"must be {meaning}, not a value of type {type(value).__name__}")
        return cast(T, value)

    def _of_all_layers(self, name: str, values: "list[object] | array[Any]") -> object:
        """The value that a GGUF file gives for each layer, where they have one (llama.cpp,
        `get_key_or_arr`)."""
        if not values:
            raise self.fail(name, "is an empty array")
        first = values[0]
        if any(value != first for value in values):
            raise UnsupportedModel(
                f"{self.source}: {self.prefix}{name} differs from layer to layer, which is not supported"
            )
        return first


def _is(value: object, kind: type) -> bool:
    """JSON writes 1.0 as 1, so a whole number is a number; true and false are neither."""
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)
