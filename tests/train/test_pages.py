"""A copied page of the cache is what computing it again would give."""

from collections.abc import Callable

import numpy as np
import pytest

from sampan.core.types import ModelFiles
from sampan.kernels.backend import CacheSize, Span
from sampan.llm.load import graph_of
from sampan.llm.model import LLM

IDS = [(7 * place + 3) % 300 for place in range(52)]
BEFORE = 45  # a page, and a part of the next


@pytest.mark.parametrize(
    ("backend", "cache"),
    [("cpu", "f32"), ("cpu", "bf16"), ("cpu", "int8"), ("torch", "f32"), ("torch", "bf16")],
)
def test_two_texts_go_on_from_copies_of_a_page(
    tiny: Callable[..., ModelFiles], backend: str, cache: str
) -> None:
    with LLM(tiny("qwen3"), backend=backend, context=256, threads=1) as llm:
        program = llm.backend.compile(graph_of(llm.config), llm.weights, CacheSize(9, cache), 128)

        def pages(*own: int) -> np.ndarray:
            return np.array(own, np.int32)

        others = [IDS[BEFORE], *IDS[:6]]
        whole = [Span(IDS, 0, pages(0, 1), 7), Span(IDS[:BEFORE] + others, 0, pages(2, 3), 7)]
        expected = np.array(program.run(whole).logits)
        program.run([Span(IDS[:BEFORE], 0, pages(4, 5), 0)])
        program.copy_pages([(5, 6), (5, 7)])
        spans = [Span(IDS[BEFORE:], BEFORE, pages(4, 6), 7), Span(others, BEFORE, pages(4, 7), 7)]
        found = np.array(program.run(spans).logits)
        if llm.backend.exact:
            assert np.array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 if cache == "f32" else 0.05)
        with pytest.raises(ValueError, match="page outside the cache"):
            program.copy_pages([(0, 9)])
