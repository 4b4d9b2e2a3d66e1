"""The rows of a training step: each of the backward pass's is one that the kernels computed, no page is
written by two, and there are pages enough."""

import random

import pytest

from sampan.kernels.backend import PAGE
from sampan.train.batch import ROWS_OF_A_PAGE, Batch, Group


def group_of(chance: random.Random) -> Group:
    continuations = (chance.randint(1, 50) for _ in range(chance.randint(1, 5)))
    prompt = tuple(chance.randrange(1000) for _ in range(chance.choice((1, 2, 32, 33, 34, 65, 90))))
    return Group(prompt, tuple(tuple(chance.randrange(1000) for _ in range(n)) for n in continuations))


@pytest.mark.parametrize("seed", range(50))
def test_rows_and_pages(seed: int) -> None:
    chance = random.Random(seed)
    batch = Batch(tuple(group_of(chance) for _ in range(3)))
    prompts, spans = batch.prompts(0), batch.spans(0)
    others, taken = batch.of_continuations
    assert sorted(batch.of_prompts + others) == list(range(len(batch.ids)))
    first, second = ([token for span in each for token in span.ids] for each in (prompts, spans))
    assert [batch.ids[row] for row in batch.of_prompts] == first, "each token of a prompt but the last, once"
    assert [batch.ids[row] for row in others] == [second[row] for row in taken]
    assert sum(map(len, (first, second))) <= batch.rows
    written = [page for span in spans for page in span.pages[span.before // PAGE :].tolist()]
    written += [page for span in prompts for page in span.pages.tolist()]
    assert len(set(written)) == len(written)
    assert max(written) < batch.pages <= -(-batch.rows // ROWS_OF_A_PAGE)
    assert all(len(span.pages) * PAGE >= span.before + len(span.ids) for span in (*prompts, *spans))
    parts = {span.pages[span.before // PAGE] for span in spans if span.before % PAGE}
    assert parts == {to for _, to in batch.copies}
