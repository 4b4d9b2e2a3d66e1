"""A family that a file of the tests brings: both backends give the logits that numpy gives without Sampan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sampan import LLM
from sampan.core.settings import Settings
from sampan.kernels.backend import CacheSize, Span
from sampan.kernels.select import BACKENDS, backend_named
from sampan.llm.load import graph_of
from sampan.weights.checkpoint import open_checkpoint

Make = Callable[..., Any]
LENGTH, ROWS = 70, 128
# In parts of the logits' range. float32 and float64 differ by up to 4.5e-7; the native product of bf16
# weights rounds its inputs to bf16: 3.3e-3.
NOISE, ROUNDED = 1e-5, 1e-2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_logits_are_those_of_numpy(backend: str, dtype: str, parallel: Make, error: Make) -> None:
    files, tensors, logits = parallel(dtype)
    ids = np.random.default_rng(1).integers(0, 264, LENGTH).tolist()
    here = backend_named(backend, None, Settings(Path()), 1)
    with open_checkpoint(files) as checkpoint:
        graph = graph_of(checkpoint.config)
        here.check(graph, files.name)
        weights = here.place(checkpoint, here.needs(graph, checkpoint, ROWS, None).weights)
        program = here.compile(graph, weights, CacheSize(4, "f32"), ROWS)
    found = program.run([Span(ids, 0, np.arange(4, dtype=np.int32), LENGTH)]).logits
    rounded = backend == "cpu" and dtype == "BF16"
    assert error(np.array(found), logits(tensors, ids)) < (ROUNDED if rounded else NOISE)


def test_it_answers_as_any_model_does_and_on_both_backends_alike(parallel: Make) -> None:
    files, _, _ = parallel()
    answers = set()
    for backend in BACKENDS:
        with LLM(files, backend=backend, context=256) as llm:
            answers.add(llm.chat([{"role": "user", "content": "hi"}], max_tokens=12).text)
    assert len(answers) == 1
