"""Typed reading of GGUF key/values: every surprise is a `TokenizerError` that names the key."""

import warnings
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

from sampan.core.errors import TokenizerError


class Metadata:
    """GGUF key/values as plain Python or numpy; arrays may be lists, tuples or numpy arrays."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def text(self, key: str) -> str | None:
        """A string, or None where the key is missing."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, str):
            raise _wrong(key, f"of type {type(value).__name__}, not a string")
        return value

    def strings(self, key: str) -> list[str]:
        """An array of strings that must be there."""
        values = self._array(key)
        if values is None:
            raise TokenizerError(
                f"GGUF key {key} is missing: the file has no complete vocabulary, use another one"
            )
        if not set(map(type, values)) <= {str}:
            place = next(place for place, value in enumerate(values) if type(value) is not str)
            raise _wrong(f"{key}[{place}]", f"of type {type(values[place]).__name__}, not a string")
        return values

    def numbers(self, key: str, count: int, kinds: tuple[type, ...]) -> list[Any] | None:
        """An array of `count` numbers of these types, or None where the key is missing."""
        values = self._array(key)
        if values is None:
            return None
        if len(values) != count:
            raise _wrong(key, f"{len(values)} long for {count} tokens")
        if not set(map(type, values)) <= set(kinds):
            place = next(place for place, value in enumerate(values) if type(value) not in kinds)
            raise _wrong(
                f"{key}[{place}]", f"of type {type(values[place]).__name__}, not a number as expected"
            )
        return values

    def bytes(self, key: str) -> bytes:
        """An array of bytes, empty where the key is missing."""
        values = self._array(key) or []
        if not all(isinstance(value, int) and 0 <= value < 256 for value in values):
            raise _wrong(key, "not an array of bytes")
        return bytes(values)

    def flag(self, key: str, default: bool) -> bool:
        """A truth value, or `default` where the key is missing."""
        return bool(self._values.get(key, default))

    def token_id(self, key: str, count: int, default: int | None = None) -> int | None:
        """The id of an entry, or `default` where the key is missing or names none, which is told as in
        llama.cpp."""
        value = self._values.get(key)
        if value is None:
            return default
        try:
            token = index(value)  # type: ignore[arg-type]
        except TypeError:
            raise _wrong(key, f"of type {type(value).__name__}, not a token id") from None
        if not 0 <= token < count:
            instead = "" if default is None else f", {default} is taken"
            warnings.warn(
                f"GGUF key {key}: passed over {token}: there are {count} tokens{instead}", stacklevel=2
            )
            return default
        return token

    def _array(self, key: str) -> list[Any] | None:
        value = self._values.get(key)
        if hasattr(value, "tolist"):
            value = value.tolist()
        if value is None or isinstance(value, list):
            return value
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise _wrong(key, f"of type {type(value).__name__}, not an array")
        return list(value)


def _wrong(place: str, fault: str) -> TokenizerError:
    return TokenizerError(f"GGUF key {place} is {fault}: the file is damaged, fetch it again")
