"""A family of one's own, in a file that `SAMPAN_FAMILIES` names: loaded, scored and served on both
backends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sampan import LLM, SamplingParams

GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_it_is_served_and_scores_what_its_oracle_says(
    backend: str, serve: Any, parallel: Callable[..., Any], own_families: Path
) -> None:
    files, tensors, logits = parallel()
    ids = [n * 7 % 97 for n in range(40)]
    rows = logits(tensors, ids)
    oracle = [
        float(row[token] - np.log(np.exp(row).sum())) for row, token in zip(rows, ids[1:], strict=False)
    ]
    with LLM(files, backend=backend, context=64) as llm:
        assert llm.score(ids).logprobs[1:] == pytest.approx(oracle, abs=1e-4)
        expected = llm.generate(ids, GREEDY)
        said = llm.tokenizer.decode(list(expected.tokens))
    names = ":".join(map(str, sorted(own_families.glob("*.py"))))
    with serve(
        "--backend", backend, "--context", "64", name=str(files.path), SAMPAN_FAMILIES=names
    ) as service:
        model = service.openai.models.list().data[0].id
        done = service.openai.completions.create(
            model=model, prompt=ids, max_tokens=12, temperature=0, extra_body={"ignore_eos": True}
        )
    assert done.choices[0].text == said


def test_both_backends_answer_alike(parallel: Callable[..., Any]) -> None:
    files, _, _ = parallel(seed=1)
    found = []
    for backend in ("cpu", "torch"):
        with LLM(files, backend=backend, context=64) as llm:
            found.append([answer.tokens for answer in llm.generate([[1, 2, 3], [4] * 30], GREEDY)])
    assert found[0] == found[1]
