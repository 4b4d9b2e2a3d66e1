"""ToMi: where a thing is, and where somebody believes that it is (Le et al., EMNLP 2019)."""

import re

from sampan.envs.task import Problem
from sampan.evals.tasks.labels import label_in
from sampan.evals.tasks.openai_evals import OfEvals
from sampan.evals.tasks.packaged import Row
from sampan.evals.tasks.packages import EVALS

_PLACES = (
    "basket", "bathtub", "bottle", "box", "bucket", "container", "crate", "cupboard", "drawer", "envelope",
    "pantry", "suitcase", "treasure_chest",
)  # fmt: skip


class ToMi(OfEvals):
    """See `Benchmark`."""

    name = "tomi"
    line = "where a thing is, and where somebody believes that it is: one word"
    source = "ToMi (Le et al., EMNLP 2019)"
    licence = "CC BY-NC 4.0, by the package's LICENSE.md"
    file = EVALS.file("evals/registry/data/theory_of_mind/tomi/test.jsonl")
    asked = re.compile(r".*", re.DOTALL)
    size = 5993
    max_tokens = 512

    def answer_in(self, _problem: Problem, text: str) -> str | None:
        """The last place, or the one behind "the answer is"."""
        return label_in(re.sub(r"treasure[ -]chest", "treasure_chest", text, flags=re.IGNORECASE), _PLACES)

    def _problem(self, row: Row) -> Problem:
        return Problem(f"{self._parts(row)[0]}\n\nAnswer with one word.", row["ideal"])
