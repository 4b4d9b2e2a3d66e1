"""The parts of an answer put together, as a whole and as the runs that it consists of.

A run is what comes in a row of one kind: reasoning, text, or one tool call. APIs whose answers have blocks or
items make one of each run, streamed or not, so that both forms of an answer are the same.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from sampan.core.types import TokenLogprob, TokenScore
from sampan.server.ask import CallPart, Part

Kind = Literal["reasoning", "text", "call"]


@dataclass
class Run:
    """`place`: its number in the answer. `tokens`: that it came with. `id`, `name`: of a call."""

    kind: Kind
    place: int
    pieces: list[str] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    id: str = ""
    name: str = ""

    @property
    def text(self) -> str:
        """Its text so far; of a call, the arguments as JSON text."""
        return "".join(self.pieces)


@dataclass(frozen=True)
class Step:
    """A run begins, has more `text`, or ends."""

    what: Literal["open", "more", "close"]
    run: Run
    text: str = ""
    tokens: tuple[TokenLogprob, ...] = ()


class Answer:
    """One answer of an ask."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.tokens: list[TokenLogprob] = []
        self.scores: list[TokenScore] = []
        self.finish: str | None = None
        self.stop_text: str | None = None
        self._open: Run | None = None
        self._call = -1
        self._waiting: list[TokenLogprob] = []  # tokens whose text has yet to come

    def take(self, part: Part) -> list[Step]:
        """Add a part; what it does to the runs. The last part closes the last run."""
        self.tokens.extend(part.tokens)
        self.scores.extend(part.scores)
        self._waiting.extend(part.tokens)
        steps = self._more("reasoning", part.reasoning) + self._more("text", part.text)
        for call in part.calls:
            steps += self._more_of_call(call)
        if part.finish is not None:
            self.finish, self.stop_text = part.finish, part.stop_text
            steps += self._close()
        return steps

    def silence(self) -> list[Step]:
        """What makes a run of an answer that has none, for APIs whose conversations need its turn."""
        return [] if self.runs else [*self._begin("text"), *self._close()]

    @property
    def text(self) -> str:
        """All text of the answer."""
        return self._joined("text")

    @property
    def reasoning(self) -> str:
        """All reasoning."""
        return self._joined("reasoning")

    @property
    def calls(self) -> list[Run]:
        """The tool calls."""
        return [run for run in self.runs if run.kind == "call"]

    def _joined(self, kind: Kind) -> str:
        return "".join(run.text for run in self.runs if run.kind == kind)

    def _more(self, kind: Kind, text: str) -> list[Step]:
        if not text:
            return []
        steps = [] if self._open is not None and self._open.kind == kind else self._begin(kind)
        return [*steps, self._add(text)]

    def _more_of_call(self, call: CallPart) -> list[Step]:
        steps = []
        if self._open is None or self._open.kind != "call" or call.index != self._call:
            steps = self._begin("call", call.id or "", call.name or "")
            self._call = call.index
        return [*steps, self._add(call.arguments)] if call.arguments else steps

    def _begin(self, kind: Kind, id: str = "", name: str = "") -> list[Step]:
        steps = self._close() if self._open is not None else []
        self._open = Run(kind, len(self.runs), id=id, name=name)
        self.runs.append(self._open)
        return [*steps, Step("open", self._open)]

    def _add(self, text: str) -> Step:
        run = self.runs[-1]
        tokens, self._waiting = tuple(self._waiting), []
        run.pieces.append(text)
        run.tokens.extend(tokens)
        return Step("more", run, text, tokens)

    def _close(self) -> list[Step]:
        run, self._open = self._open, None
        return [] if run is None else [Step("close", run)]


async def collected(parts: AsyncIterator[Part], n: int = 1) -> list[Answer]:
    """All `n` answers of an ask, whole; `parts` is closed in any case."""
    answers = [Answer() for _ in range(n)]
    async with aclosing(parts):  # type: ignore[type-var]
        async for part in parts:
            answers[part.index].take(part)
    return answers
