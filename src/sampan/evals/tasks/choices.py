"""Multiple choice: questions with lettered options, and which of them an answer means."""

import re
import unicodedata
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from sampan.envs.task import Problem
from sampan.evals.benchmark import Options
from sampan.evals.tasks.packaged import OfRows
from sampan.evals.tasks.said import boxed, line_of, marked, plain, spoken

DIRECT = "Answer with the letter of the right option."
REASONED = 'Think step by step. End with "The answer is (LETTER)", with the letter of the right option.'

_LETTER = re.compile(
    r"(?:[\s*_`'\"“‘$\[({<:]|\b(?:option|choice|letter)\b)*([A-Za-z])(?![\w'’])", re.IGNORECASE
)
_CLOSED = tuple("*_`'\"”’$])}>.,:;!?")
_MORE = re.compile(r"[\W_]*(?:or|and|/|&)[\W_]*[A-Z]\b")
_JUDGED = re.compile(
    r"(?<![\w'’])\(?([A-Z])\)?[*\"'”]*\s+(?:is|would be|must be)\s+(?:the\s+)?"
    r"(?:correct|right|best|most\s+likely)\b"
)
_LEADING = re.compile(r"^[ \t*_`>\"'-]*\(?([A-Z])(?:[).:]|\*\*)(?!\w| *(?:or|and|/|&) )", re.MULTILINE)
_ALONE = re.compile(r"\W*(?:(?:option|choice|letter)\W+)?([A-Za-z])\W*", re.IGNORECASE)
_NAMED = re.compile(r"\b(?:options?|choice|letter|choose|select|pick|leaves) *[*(]*([A-Z])(?![\w'’])", re.I)
_BRACKETED = re.compile(r"\(([A-Z])\)")
_TOKEN = re.compile(r"-?\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s.,;:!?*`'\"“”‘’()$\\]")
_WEAK = {"a", "an", "be", "i", "is", "it", "no", "not", "the", "to", "very"}  # words of any sentence
_REASON = re.compile(r"\s+(?:because|since|as|is|which|for|based|due|[-–—])(?!\w)")


@dataclass(frozen=True)
class Choice:
    """What a problem chooses from: its options' texts, and how likelihoods ask for it."""

    texts: tuple[str, ...]
    options: Options


def lettered(options: Sequence[str]) -> str:
    """A line each."""
    return "\n".join(
        f"{letter}. {each.strip()}" for letter, each in zip(ascii_uppercase, options, strict=False)
    )


def choice_in(text: str, options: Sequence[str]) -> int | None:
    """Place of the option that a text answers with, by its letter or in its words: in the last box, behind
    the last "the answer is", alone in the last line or the first, called correct, at the beginning of the
    only line that has a letter there, as the only option whose words are there, as the only letter in
    brackets of the last line, as the only one that is chosen. None where none is, or it cannot be told."""
    said = plain(spoken(text)).strip()
    count = len(options)
    if (inside := boxed(said)) is not None and (found := _begins(inside, options)) is not None:
        return found
    for rest in marked(said):
        if (found := _begins(rest, options)) is not None:
            return found
    lines = [line for line in said.split("\n") if line.strip()]
    for line in (*lines[-1:], *lines[:1]):
        if (alone := _ALONE.fullmatch(line)) and (found := _place(alone[1], count)) is not None:
            return found
    if judged := [letter for letter in _JUDGED.findall(said) if _place(letter, count) is not None]:
        return _place(judged[-1], count)
    leading = _LEADING.findall(said)
    if (found := _only(leading, count)) is not None:
        return found
    if (found := _in_words(said, options)) is not None or leading:
        return found
    if (found := _only(_BRACKETED.findall(lines[-1]) if lines else [], count)) is not None:
        return found
    return _only(_NAMED.findall(said), count)


def _begins(rest: str, options: Sequence[str]) -> int | None:
    """What a text begins with: an option in its words, or a letter that is no word ("A dog" names no option,
    and "A or B" none of both)."""
    rest = rest[: 2 * max(map(len, options)) + 200]
    for fold in (str, str.casefold):
        words = f"{_normal(rest, fold)} "
        texts = [_normal(option, fold) for option in options]
        starts = [(len(own), at) for at, own in enumerate(texts) if words.startswith(f"{own} ")]
        if starts and texts.count(own := texts[max(starts)[1]]) == 1 and not re.fullmatch("[A-Za-z]?", own):
            return max(starts)[1]
    line = line_of(rest)
    found = _LETTER.match(line)
    if found is None:
        return None
    letter, behind = found[1], line[found.end() :]
    article = letter.islower() or letter in "AI"
    if _MORE.match(behind) or (
        article and behind.strip() and not (behind.startswith(_CLOSED) or _REASON.match(behind))
    ):
        return None
    return _place(letter, len(options))


def _in_words(said: str, options: Sequence[str]) -> int | None:
    """The only option whose words are in the text, where it is within no other option that is there too."""
    for fold in (str, str.casefold):
        whole = f" {_normal(said, fold)} "
        there = [(f" {own} ", at) for at, option in enumerate(options) if (own := _normal(option, fold))]
        there = [(own, at) for own, at in there if own in whole and own.strip().lower() not in _WEAK]
        longest = [at for own, at in there if not any(own in other for other, by in there if by != at)]
        if len(longest) == 1:
            return longest[0]
    return None


def _only(letters: Sequence[str], count: int) -> int | None:
    found = {_place(letter, count) for letter in letters}
    return found.pop() if len(found) == 1 else None


def _place(letter: str, count: int) -> int | None:
    at = ascii_uppercase.find(letter.upper())
    return at if 0 <= at < count else None


def _normal(text: str, fold: Callable[[str], str]) -> str:
    """Words, numbers and signs, with a space between each; without what only points and dresses."""
    return " ".join(_TOKEN.findall(fold(unicodedata.normalize("NFKC", plain(text)))))


class Chosen(OfRows, ABC):
    """See `Packaged`. A problem's answer is a letter, and its data a `Choice`."""

    def answer_in(self, problem: Problem, text: str) -> str | None:
        """The letter (see `choice_in`)."""
        found = choice_in(text, _choice(problem).texts)
        return None if found is None else ascii_uppercase[found]

    def options(self, problem: Problem) -> Options | None:
        """As lm-eval asks, where it has the benchmark."""
        return _choice(problem).options


def _choice(problem: Problem) -> Choice:
    assert isinstance(problem.data, Choice)
    return problem.data


def by_texts(question: str, texts: Sequence[str], right: int, context: str) -> Problem | None:
    """A problem whose likelihoods are those of the options' texts. None for options of which two are the same
    or one is empty."""
    options = Options(context, tuple(texts), right)
    return _problem(question, texts, right, options)


def by_letters(question: str, texts: Sequence[str], right: int, context: str) -> Problem | None:
    """The same with those of the letters behind the lettered options."""
    letters = tuple(ascii_uppercase[: len(texts)])
    options = Options(f"{context}\n{lettered(texts)}\nAnswer: ", letters, right)
    return _problem(question, texts, right, options)


def _problem(question: str, texts: Sequence[str], right: int, options: Options) -> Problem | None:
    if len({text.strip() for text in texts}) < len(texts) or not all(text.strip() for text in texts):
        return None
    return Problem(question, ascii_uppercase[right], Choice(tuple(texts), options))
