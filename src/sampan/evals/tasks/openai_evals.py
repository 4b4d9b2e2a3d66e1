"""Problems of openai/evals: each row has the turns of a chat, of which the last is the question, and `ideal`.
What the system's turn asks for is said here in other words, behind the question."""

from abc import ABC
from re import Match, Pattern
from typing import ClassVar

from sampan.evals.tasks.packaged import OfRows, Row

MIT = "MIT, by the package's LICENSE.md"


class OfEvals(OfRows, ABC):
    """See `Packaged`. `asked`: what a question is, as it is written there."""

    asked: ClassVar[Pattern[str]]
    licence = MIT

    def _parts(self, row: Row) -> "Match[str]":
        """Of a question."""
        found = self.asked.fullmatch(row["input"][-1]["content"])
        assert found is not None, row
        return found
