"""The answer within what a model said."""

import re

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_TAGGED = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)
_FENCED = re.compile(r"^```[^\n`]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)


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


def code(text: str) -> str | None:
    """The last block of code that is fenced, without its fences; all of the text where none is."""
    found = _FENCED.findall(text)
    return (found[-1] if found else text).strip("\n") or None
