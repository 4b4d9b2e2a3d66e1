"""QuaRTz: which way a quantity goes where another one changes (arXiv:1909.03553)."""

import re

from sampan.envs.task import Problem
from sampan.evals.tasks.choices import DIRECT, Chosen, by_texts, lettered
from sampan.evals.tasks.openai_evals import OfEvals
from sampan.evals.tasks.packaged import Row
from sampan.evals.tasks.packages import EVALS


class Quartz(OfEvals, Chosen):
    """See `Benchmark`. Sixteen questions are there twice with two answers, and left out."""

    name = "quartz"
    line = "which way a quantity goes where another one changes, two options each"
    source = "QuaRTz (arXiv:1909.03553), all splits, without its texts of knowledge"
    file = EVALS.file("evals/registry/data/quartz/samples.jsonl")
    asked = re.compile(r"(.*?)\n\n A: (.*?)\n B: (.*)", re.DOTALL)
    size = 3828
    max_tokens = 512

    def _problem(self, row: Row) -> Problem | None:
        question, *texts = (part.strip() for part in self._parts(row).groups())
        asked = f"{question}\n\n{lettered(texts)}\n\n{DIRECT}"
        return by_texts(asked, texts, "AB".index(row["ideal"]), f"Q: {question}\nA: ")
