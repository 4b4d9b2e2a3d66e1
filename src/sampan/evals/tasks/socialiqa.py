"""SocialIQA: what people feel, want and do (arXiv:1904.09728)."""

import re

from sampan.envs.task import Problem
from sampan.evals.tasks.choices import DIRECT, Chosen, by_texts, lettered
from sampan.evals.tasks.openai_evals import OfEvals
from sampan.evals.tasks.packaged import Row
from sampan.evals.tasks.packages import EVALS


class SocialIqa(OfEvals, Chosen):
    """See `Benchmark`. Some problems are there twice, and five have an option twice: those are left out."""

    name = "socialiqa"
    line = "what people feel, want and do, three options each"
    source = "SocialIQA (arXiv:1904.09728), its test split"
    licence = "CC BY 4.0, by the package's LICENSE.md"
    file = EVALS.file("evals/registry/data/theory_of_mind/socialiqa/test.jsonl")
    asked = re.compile(r"(.*) A: (.*?); B: (.*?); C: (.*)\.", re.DOTALL)
    size = 2198
    max_tokens = 512

    def _problem(self, row: Row) -> Problem | None:
        question, *texts = (part.strip() for part in self._parts(row).groups())
        asked = f"{question}\n\n{lettered(texts)}\n\n{DIRECT}"
        return by_texts(asked, texts, "ABC".index(row["ideal"]), f"Q: {question}\nA: ")
