"""Whether what a model said has the right answer, by name."""

import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation

from sampan.envs.answers import last_number

Check = Callable[[str, str], bool]
"""Of what was said, and the right answer."""


def exact(said: str, right: str) -> bool:
    """The same to the letter."""
    return said == right


def text(said: str, right: str) -> bool:
    """The same, whatever the capitals, the spaces and the last full stop."""
    return _plain(said) == _plain(right)


def number(said: str, right: str) -> bool:
    """Whether the last number has the same value: "1,000.0" and "1000" have."""
    found = last_number(said)
    values = _value(found or ""), _value(right)
    return None not in values and values[0] == values[1]


CHECKS: Mapping[str, Check] = {"exact": exact, "number": number, "text": text}


def _plain(told: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", told).casefold().split()).removesuffix(".")


def _value(told: str) -> Decimal | None:
    try:
        value = Decimal(told.strip().replace(",", ""))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
