"""AIME 2025: problems of the American Invitational Mathematics Examination."""

from sampan.envs.task import Problem
from sampan.evals.tasks.ds4 import OfDs4
from sampan.evals.tasks.numbers import Numeric
from sampan.evals.tasks.packaged import Row


class Aime25(OfDs4, Numeric):
    """See `Benchmark`."""

    name = "aime25"
    line = "mathematics of the AIME 2025, each with an integer from 0 to 999 for its answer"
    source = "AIME 2025, 25 of its 30 problems"
    part = "AIME2025"
    size = 25
    max_tokens = 8192

    def _problem(self, row: Row) -> Problem:
        asked = "Think step by step. The answer is an integer from 0 to 999: put it within \\boxed{}."
        return Problem(f"{row['question']}\n\n{asked}", row["answer"])
