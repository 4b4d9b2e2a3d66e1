"""JEE mathematics: multiple choice of India's Joint Entrance Examination."""

import re

from sampan.envs.task import Problem
from sampan.evals.tasks.choices import REASONED, Chosen, by_letters, lettered
from sampan.evals.tasks.openai_evals import OfEvals
from sampan.evals.tasks.packaged import Row
from sampan.evals.tasks.packages import EVALS


class JeeMath(OfEvals, Chosen):
    """See `Benchmark`. One problem of the file lacks an option, and is left out."""

    name = "jee-math"
    line = "mathematics of India's entrance examination for engineers, four options each"
    source = "JEE (Main), mathematics"
    file = EVALS.file("evals/registry/data/jee-math/samples.jsonl")
    asked = re.compile(r"(.*?)\n ?\(A\)(.*?)\n ?\(B\)(.*?)\n ?\(C\)(.*?)\n ?\(D\)(.*)", re.DOTALL)
    size = 433
    max_tokens = 4096

    def _problem(self, row: Row) -> Problem | None:
        question, *texts = (part.strip() for part in self._parts(row).groups())
        # "the correct answer is (B)"
        right = "ABCD".index(row["ideal"][0][-2])
        return by_letters(f"{question}\n\n{lettered(texts)}\n\n{REASONED}", texts, right, question)
