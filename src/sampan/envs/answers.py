"""The answer within what a model said."""

import re
from collections.abc import Callable

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_WORD = re.compile(r"\w+(?:['-]\w+)*")
_TAGGED = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)
_FENCED = re.compile(r"^```[^\n`]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)


def last_number(text: str) -> str | None:
    """Without thousands' commas; None where there is none."""
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else None


def last_word(text: str) -> str | None:
    """Of letters and digits, with what joins them; None where there is none."""
    found = _WORD.findall(text)
    return found[-1] if found else None


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


def chosen(*labels: str) -> Callable[[str], str | None]:
    """The last of these words in a text, in capitals or not, as it is written here."""
    known = {label.casefold(): label for label in labels}
    longest = sorted(map(re.escape, labels), key=len, reverse=True)  # "not entailed" goes before "entailed"
    word = re.compile(rf"(?<![\w-])(?:{'|'.join(longest)})(?![\w-])", re.IGNORECASE)

    def extract(text: str) -> str | None:
        found = word.findall(text)
        return known[found[-1].casefold()] if found else None

    return extract
