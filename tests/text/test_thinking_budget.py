"""A budget ends the reasoning with the closing tag, wherever the reasoning was opened, and nothing else."""

import pytest

from sampan.engine.constraint import allows
from sampan.text.thinking import CLOSING, ThinkingBudget
from sampan.text.tokenizer import Tokenizer
from sampan.weights.gguf import read_gguf


@pytest.fixture(scope="module")
def tokenizer(default_model):
    return Tokenizer.from_gguf(read_gguf(default_model.path).metadata)


def follow(budget, tokens):
    """Feed an answer, obeying what is forced; the tokens that came of it."""
    taken = []
    for token in tokens:
        while (mask := budget.allowed()) is not None:
            (forced,) = [each for each in range(8 * len(mask)) if allows(mask, each)]
            assert budget.forced()[0] == forced
            budget.accept(forced)
            taken.append(forced)
        budget.accept(token)
        taken.append(token)
    return taken


@pytest.mark.parametrize(
    ("inside", "answer", "budget", "expected"),
    [
        (True, "one two three four", 2, "one two" + CLOSING + " three four"),
        (True, "one two three four", 0, CLOSING + "one two three four"),
        (True, "one</think>two three four", 9, "one</think>two three four"),
        (False, "<think>one two three four", 2, "<think>one two" + CLOSING + " three four"),
        (False, "one two three four", 0, "one two three four"),
        (False, "one <think> two three", 0, "one <think> two three"),
    ],
)
def test_reasoning_ends_after_its_budget(tokenizer, inside, answer, budget, expected):
    ids = tokenizer.encode(answer, add_bos=False)
    constraint = ThinkingBudget(tokenizer, budget, inside=inside)
    assert tokenizer.decode(follow(constraint, ids)) == expected
    assert (constraint.done, constraint.error, constraint.allowed()) == (False, None, None)


def test_the_authors_words_end_it(tokenizer):
    constraint = ThinkingBudget(tokenizer, 1, inside=True, closing=" Enough.\n</think>\n\n")
    ids = tokenizer.encode("one two", add_bos=False)
    assert tokenizer.decode(follow(constraint, ids)) == "one Enough.\n</think>\n\n two"
