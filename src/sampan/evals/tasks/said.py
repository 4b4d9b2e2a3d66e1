"""Where in a text its answer stands."""

import re
from collections.abc import Iterator

_THOUGHT = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
# "The answer is", "**Answer:**", "the answer to the question would be", "Final answer =".
_MARK = re.compile(
    r"\banswer\b(?:[^\n.:=]{0,60}?\b(?:is|be|was)\b(?!\s+not\b)|[^\n.]{0,60}?[:=]|\W*\n)", re.IGNORECASE
)
_MARKUP = ' \t\r\n*_`$:=>#"'
_DEEPEST = 8
_LATEX = (
    (re.compile(r"\\(?:text|math)(?:bf|rm|it|tt|sf)?\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\d?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}"), r"\1/\2"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,!;: ]"), ""),
    (re.compile(r"\\([$%#_&])"), r"\1"),
    (re.compile(r"\\[()\[\]]"), " "),
)


def spoken(text: str) -> str:
    """Without what the model thought before: all behind the last end of thinking. Nothing, where a thought
    was cut before its end."""
    found = list(_THOUGHT.finditer(text))
    if not found:
        return text
    return text[found[-1].end() :] if found[-1][1] else ""


def boxed(text: str) -> str | None:
    """What the last \\boxed{} or \\fbox{} has, whatever braces are in it."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    depth, first = 0, text.index("{", start)
    for at in range(first, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[first + 1 : at]
    return None


def marked(text: str) -> Iterator[str]:
    """What follows "the answer is" and its like, the last one first: each up to the text's end."""
    for found in reversed(list(_MARK.finditer(text))):
        yield text[found.end() :].lstrip(_MARKUP)


def plain(text: str) -> str:
    """LaTeX that only dresses numbers and words, taken off."""
    for _ in range(_DEEPEST):
        before = text
        for pattern, by in _LATEX:
            text = pattern.sub(by, text)
        if text == before:
            break
    return text


def line_of(text: str) -> str:
    """The first line."""
    return text.partition("\n")[0]
