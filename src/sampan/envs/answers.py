"""The answer within what a model said."""

import re

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_TAGGED = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)


def last_number(text: str) -> str | None:
    """Without thousands' commas; None where there is none."""
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else None


def tagged(text: str) -> str | None:
    """Between the last <answer> and </answer>."""
    found = _TAGGED.findall(text)
    return found[-1] if found else None


def whole(text: str) -> str | None:
    """All of it, without the full stop."""
    return text.strip().removesuffix(".") or None
