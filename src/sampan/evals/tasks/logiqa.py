"""LogiQA: logical reasoning from China's civil servants' examination, in English (arXiv:2007.08124)."""

import re

from sampan.envs.task import Problem
from sampan.evals.tasks.choices import REASONED, Chosen, by_texts, lettered
from sampan.evals.tasks.openai_evals import OfEvals
from sampan.evals.tasks.packaged import Row
from sampan.evals.tasks.packages import EVALS


class LogiQa(OfEvals, Chosen):
    """See `Benchmark`. The file has each problem twice; three have an option twice, and are left out."""

    name = "logiqa"
    line = "logical reasoning about a passage, four options each"
    source = "LogiQA (arXiv:2007.08124)"
    file = EVALS.file("evals/registry/data/logiqa/logiqa.jsonl")
    asked = re.compile(
        r"\nPassage: (.*?)Question: (.*?)\nA\. A\.(.*?)\nB\. B\.(.*?)\nC\. C\.(.*?)\nD\. D\.(.*?)\nAnswer:",
        re.DOTALL,
    )
    size = 674
    max_tokens = 2048

    def _problem(self, row: Row) -> Problem | None:
        passage, question, *texts = (part.strip() for part in self._parts(row).groups())
        told = f"Passage: {passage}\nQuestion: {question}\nChoices:\n{lettered(texts)}"
        return by_texts(f"{told}\n\n{REASONED}", texts, "ABCD".index(row["ideal"]), f"{told}\nAnswer: ")
