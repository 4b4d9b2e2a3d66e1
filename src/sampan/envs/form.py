"""Rewards for how an answer is said, not for what it says. All are from 0 to 1, or from -1 to 0 where they
only blame."""

import re
import unicodedata
from functools import cache

from sampan.core.errors import UsageError, quoted
from sampan.core.types import Completion
from sampan.envs.rewards import Reward
from sampan.envs.task import Problem

_KIN = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}  # one text has all three


def formatted(think: str = "think", answer: str = "answer") -> Reward:
    """1 for thoughts and an answer between their tags, each pair once, and nothing else but spaces
    (DeepSeek-R1, arXiv:2501.12948); otherwise 0."""
    tags = _tags(think, answer)
    inner = rf"((?!{'|'.join(map(re.escape, tags))}).)*"
    opening, closing, begin, end = map(re.escape, tags)
    form = re.compile(rf"\s*{opening}{inner}{closing}\s*{begin}{inner}{end}\s*", re.DOTALL)

    def reward(_problem: Problem, completion: Completion) -> float:
        return float(form.fullmatch(_said(completion, think)) is not None)

    return reward


def tags(think: str = "think", answer: str = "answer") -> Reward:
    """A quarter for each of the four tags that is there just once: a way towards `formatted`."""
    four = _tags(think, answer)

    def reward(_problem: Problem, completion: Completion) -> float:
        said = _said(completion, think)
        return sum(said.count(tag) == 1 for tag in four) / 4

    return reward


def near(tokens: int, width: int) -> Reward:
    """1 for an answer of so many tokens, falling to 0 at `width` more or less."""
    _positive(tokens=tokens, width=width)

    def reward(_problem: Problem, completion: Completion) -> float:
        return max(0.0, 1.0 - abs(completion.completion_tokens - tokens) / width)

    return reward


def brief(longest: int) -> Reward:
    """1 for no token, falling to 0 at so many."""
    _positive(longest=longest)

    def reward(_problem: Problem, completion: Completion) -> float:
        return max(0.0, 1.0 - completion.completion_tokens / longest)

    return reward


def same_script(problem: Problem, completion: Completion) -> float:
    """The share of the answer's letters whose script the question has. It tells Chinese from English, not
    French from English. 1 where one of both has no letters."""
    wanted = set(_scripts(problem.question))
    found = _scripts(completion.reasoning + completion.text)
    if not wanted or not found:
        return 1.0
    return sum(script in wanted for script in found) / len(found)


def repeating(words: int = 3) -> Reward:
    """Minus the share of runs of so many words that the answer had before (arXiv:2502.03373)."""
    _positive(words=words)

    def reward(_problem: Problem, completion: Completion) -> float:
        said = (completion.reasoning + " " + completion.text).split()
        runs = [tuple(said[at : at + words]) for at in range(len(said) - words + 1)]
        return len(set(runs)) / len(runs) - 1.0 if runs else 0.0

    return reward


def _tags(think: str, answer: str) -> tuple[str, str, str, str]:
    for name, tag in (("think", think), ("answer", answer)):
        if not re.fullmatch(r"[\w-]+", tag):
            raise UsageError(f"{name} is {quoted(tag)}: give a tag's name, without its brackets")
    if think == answer:
        raise UsageError(f"think and answer are both {quoted(think)}: give two names")
    return f"<{think}>", f"</{think}>", f"<{answer}>", f"</{answer}>"


def _said(completion: Completion, think: str) -> str:
    """With the thoughts that a reasoning model's template took out of the text."""
    if not completion.reasoning:
        return completion.text
    return f"<{think}>{completion.reasoning}</{think}>{completion.text}"


def _scripts(text: str) -> list[str]:
    """Of each letter."""
    return [_script(letter) for letter in unicodedata.normalize("NFKC", text) if letter.isalpha()]


@cache
def _script(letter: str) -> str:
    first = unicodedata.name(letter, "").partition(" ")[0]
    return _KIN.get(first, first)


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise UsageError(f"{name} is {quoted(number)}: give 1 or more")
