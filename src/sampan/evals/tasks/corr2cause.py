"""Corr2Cause: what correlations say about causes (arXiv:2306.05836)."""

import re

from sampan.envs.task import Problem
from sampan.evals.tasks.labels import Labelled
from sampan.evals.tasks.openai_evals import OfEvals
from sampan.evals.tasks.packaged import Row
from sampan.evals.tasks.packages import EVALS


class Corr2Cause(OfEvals, Labelled):
    """See `Benchmark`. The file has many problems twice."""

    name = "corr2cause"
    line = "what correlations say about causes: entailment, contradiction or neutral"
    source = "Corr2Cause (arXiv:2306.05836), with the three labels of openai/evals"
    file = EVALS.file("evals/registry/data/corr2cause/corr2cause.jsonl")
    asked = re.compile(r"Premise: (.*?) Hypothesis: (.*)", re.DOTALL)
    labels = ("entailment", "contradiction", "neutral")
    size = 1522
    max_tokens = 2048

    def _problem(self, row: Row) -> Problem:
        premise, hypothesis = (part.strip() for part in self._parts(row).groups())
        facts = (
            f"Premise: {premise}\nHypothesis: {hypothesis}\n"
            "Does the hypothesis follow from the premise (entailment), does its contrary (contradiction), or "
            "neither (neutral)?"
        )
        ends = 'Think step by step. End with "The answer is" and one of entailment, contradiction, neutral.'
        return Problem(f"{facts}\n\n{ends}", row["ideal"].removeprefix("Answer: "), facts)
