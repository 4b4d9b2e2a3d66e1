"""PARARULE-Plus: whether a statement follows from facts and rules, in 2 to 5 steps (arXiv:2207.14000)."""

import re

from sampan.envs.task import Problem
from sampan.evals.tasks.labels import Labelled
from sampan.evals.tasks.openai_evals import OfEvals
from sampan.evals.tasks.packaged import Row
from sampan.evals.tasks.packages import EVALS, PARARULE


class PararulePlus(OfEvals, Labelled):
    """See `Benchmark`. What does not follow is false."""

    name = "pararule-plus"
    line = "whether a statement follows from facts and rules: true or false"
    source = "PARARULE-Plus (arXiv:2207.14000), 2,000 of it"
    file = EVALS.file(f"evals/registry/data/{PARARULE}/{PARARULE}.jsonl")
    asked = re.compile(r"\nPassage: (.*?)Question: (.*?) ?\n+Answer: ?", re.DOTALL)
    labels = ("true", "false")
    size = 2000
    max_tokens = 2048

    def _problem(self, row: Row) -> Problem:
        passage, statement = (part.strip() for part in self._parts(row).groups())
        facts = (
            f"{passage}\n\nWhat does not follow from this is false.\nStatement: {statement}\nTrue or false?"
        )
        question = f'{facts}\n\nThink step by step. End with "The answer is true" or "The answer is false".'
        return Problem(question, row["ideal"], facts)
