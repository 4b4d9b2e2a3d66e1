"""Multiple choice of ds4_eval.c, asked as lm-eval's gpqa_diamond_zeroshot: likelihoods are the letters'."""

from abc import ABC
from string import ascii_uppercase

from sampan.envs.task import Problem
from sampan.evals.tasks.choices import REASONED, Chosen, by_letters, lettered
from sampan.evals.tasks.ds4 import OfDs4
from sampan.evals.tasks.packaged import Row


class Ds4Choices(OfDs4, Chosen, ABC):
    """See `Packaged`."""

    max_tokens = 4096

    def _problem(self, row: Row) -> Problem | None:
        texts, question = row["choices"], row["question"]
        asked = f"{question}\n\n{lettered(texts)}\n\n{REASONED}"
        right = ascii_uppercase.index(row["answer"])
        return by_letters(
            asked, texts, right, f"What is the correct answer to this question: {question}\nChoices:"
        )
