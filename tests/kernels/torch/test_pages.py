"""However a text is cut and whatever runs beside it, its logits are those of the text alone."""

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.kernels.backend import PAGE, CacheSize, Span
from sampan.kernels.torch.history import History, step_of
from sampan.kernels.torch.ops import evaluate

Make = Callable[..., Any]
NOISE = 2e-5  # of the logits' range


def near(found: np.ndarray, expected: np.ndarray, noise: float = NOISE) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= noise * np.ptp(expected)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_chunks_company_and_blocks_change_nothing(small: Make, ids: Make, data: st.DataObject) -> None:
    here = small()
    here.program._cache.most = data.draw(st.sampled_from([1, 2**14, 2**20]), label="at once")
    lengths = data.draw(st.lists(st.integers(1, 150), min_size=1, max_size=6), label="lengths")
    texts = [ids(length, seed) for seed, length in enumerate(lengths)]
    pages = [here.pages(length) for length in lengths]
    done, found = [0] * len(texts), [[] for _ in texts]
    while any(at < len(text) for at, text in zip(done, texts, strict=True)):
        spans, whose = [], []
        for place, text in enumerate(texts):
            left = len(text) - done[place]
            count = min(left, data.draw(st.sampled_from([80, 32, 7, 1, 1, 0]), label="rows"))
            if count:
                part = text[done[place] : done[place] + count]
                spans.append(Span(part, done[place], pages[place], count))
                whose.append(place)
                done[place] += count
        if not spans:
            continue
        rows = here.program.run(spans)
        assert not rows.unsound
        at = 0
        for place, span in zip(whose, spans, strict=True):
            found[place].append(rows.logits[at : at + len(span.ids)])
            at += len(span.ids)
    for text, parts in zip(texts, found, strict=True):
        near(np.concatenate(parts), here.expected(text))


def test_pages_of_another_with_the_same_beginning_are_as_good(small: Make, ids: Make) -> None:
    here, text, other = small(), ids(70), ids(20, 1)
    pages = here.pages(96)
    here.program.run([Span(text, 0, pages, 1)])
    shared = pages[:2] + here.pages(20)
    rows = here.program.run([Span(other, 2 * PAGE, shared, len(other))])
    near(rows.logits, here.expected([*text[: 2 * PAGE], *other])[2 * PAGE :])


def test_what_is_not_finite_stays_with_its_own_sequence(small: Make, ids: Make, whole: Make) -> None:
    """Neither pages that a shorter one is padded with, nor what a page held before, reach another."""
    here, text, longer = small(pages=4), ids(3), ids(40, 1)
    bad = next(n for n in range(1, 9) if n not in {*text, *longer})
    with torch.inference_mode():
        here.program.weights["embed.weight"][bad] = torch.nan
    rows = here.program.run([whole([bad] * PAGE, array("i", [0]), PAGE)])
    assert rows.unsound == dict.fromkeys(range(PAGE), "before 0.norm")
    here.program.run([whole(text, array("i", [1])), whole(longer, array("i", [2, 3]))])
    step = [Span([text[0]], 3, array("i", [1]), 1), Span([text[0]], 40, array("i", [2, 3]), 1)]
    own = here.program._cache.tensors(here.program.graph.attentions()[1])
    assert torch.isnan(own[1][0]).any()  # page 0 still holds them
    hidden = here.program.run(step).kept("hidden")
    assert np.isfinite(hidden).all()
    here.program.run([whole(text, array("i", [0]))])  # the page again, for another
    assert np.isfinite(here.program.run([Span([text[0]], 3, array("i", [0]), 1)]).kept("hidden")).all()


def test_a_bf16_cache_costs_little(small: Make, ids: Make, whole: Make) -> None:
    here, text = small(cache="bf16"), ids(100)
    near(here.program.run([whole(text, here.pages(100), 100)]).logits, here.expected(text), 0.02)


def test_a_step_without_a_sample_fills_the_cache(small: Make, ids: Make) -> None:
    here, text = small(), ids(50)
    pages = here.pages(50)
    rows = here.program.run([Span(text[:49], 0, pages, 0)])
    assert (rows.best, rows.logprobs, rows.log_totals, rows.unsound) == ([], [], [], {})
    near(here.program.run([Span(text[49:], 49, pages, 1)]).logits, here.expected(text)[-1:])


def test_two_executables_have_caches_of_their_own_and_one_set_of_weights(small: Make, ids: Make) -> None:
    here, text = small(), ids(10)
    other = here.backend.compile(here.graph, here.weights, CacheSize(2, "f32"), 16)
    assert other.weights["embed.weight"] is here.program.weights["embed.weight"]  # the head's, too
    assert here.memory.released == dict.fromkeys(here.memory.arrays, 1)
    near(other.run([Span(text, 0, array("i", [1]), 10)]).logits, here.expected(text))


@pytest.mark.parametrize("chunk", [9, 4])
def test_gradients_are_exact(chunk: int, small: Make, ids: Make) -> None:
    """Of every operation here, in float64, against differences."""
    here, text = small(), ids(9)
    weights = {name: torch.from_numpy(array).double() for name, array in here.memory.arrays.items()}
    names = ["0.norm.weight", "1.v.weight", "1.q.weight", "norm.weight"]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        history, parts = History(), []
        changed = weights | dict(zip(names, values, strict=True))
        for at in range(0, 9, chunk):
            step = step_of([(history, text[at : at + chunk])], sample_all=True)
            parts.append(evaluate(here.graph, changed, step)["logits"])
        return torch.cat(parts)[:, :40].logsumexp(-1).sum()

    values = [weights[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)
