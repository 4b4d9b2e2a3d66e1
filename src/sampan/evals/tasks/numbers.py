"""Problems whose answer is a number."""

import re
from abc import ABC
from fractions import Fraction

from sampan.envs.task import Problem
from sampan.evals.tasks.packaged import OfRows
from sampan.evals.tasks.said import boxed, line_of, marked, plain, spoken

# No sign behind a word, a number or a bracket: there it subtracts. Three digits behind each comma.
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]}])-\s?[$€£]\s?|(?<![\w)\]}])-)?"
    r"(?<![A-Za-z_\d])(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<point>\.\d+)?(?(digits)|(?(point)|(?!)))"
    r"(?P<below>/(?=[1-9])\d+(?![\d/.]))?"
)
_LONGEST = 1000  # signs; Python reads no number of more than 4,300
_HASHES = re.compile(r"####([^\n]*)")  # as GSM8K writes its own answers
_REASON = re.compile(r"[,;.!?](?:\s|$)|\b(?:because|since|as|so|which|where)\b")


def number_in(text: str) -> str | None:
    """The number that a text answers with, as digits ("1430", "-5", "3/2"): of the last box, otherwise behind
    the last ####, otherwise behind the last "the answer is", otherwise the last one that there is."""
    text = plain(spoken(text).replace("\u2212", "-"))
    if (inside := boxed(text)) is not None and (found := _result(inside)):
        return found
    places = _HASHES.findall(text)[::-1]
    places += [_REASON.split(line_of(rest), maxsplit=1)[0] for rest in marked(text)]
    for place in places:
        if found := _result(place):
            return found
    return next(iter(_numbers(text)[::-1]), None)


def _result(place: str) -> str | None:
    """The first number behind the last sign of equality."""
    found = _numbers(place.rpartition("=")[2])
    return found[0] if found else None


def _numbers(text: str) -> list[str]:
    return [_value(found) for found in _NUMBER.finditer(text)]


def _value(found: "re.Match[str]") -> str:
    if len(found[0]) > _LONGEST:
        return found[0]
    digits = (found["digits"] or "0").replace(",", "") + (found["point"] or "")
    value = Fraction(digits) / Fraction((found["below"] or "/1")[1:])
    return str(-value if found["sign"] else value)


class Numeric(OfRows, ABC):
    """See `Packaged`."""

    def answer_in(self, _problem: Problem, text: str) -> str | None:
        """See `number_in`."""
        return number_in(text)
