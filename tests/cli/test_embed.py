"""`sampan embed`: vectors for scripts and for people, also of packed weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sampan import LLM

TEXTS = ["The capital of China is Beijing.", "Gravity", "Gravity pulls."]


@pytest.fixture(scope="module")
def folder(vectors: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = vectors.write(tmp_path_factory.mktemp("cli") / "embedding").path
    return path


def test_json_has_the_vector_and_the_tokens(sampan: Any, folder: Path) -> None:
    with LLM(folder) as llm:
        expected = llm.embed(TEXTS)
        query = llm.embed(TEXTS[0], prompt="query", dimensions=8)
    rows = [json.loads(line) for line in sampan("embed", str(folder), *TEXTS, "--json").stdout.splitlines()]
    assert [set(row) for row in rows] == [{"embedding", "tokens"}] * 3
    for row, one in zip(rows, expected, strict=True):
        assert np.array_equal(np.array(row["embedding"], np.float32), one.vector)
        assert row["tokens"] == one.tokens
    words = ("embed", str(folder), TEXTS[0], "--prompt", "query", "--dimensions", "8", "--json")
    assert json.loads(sampan(*words).stdout)["embedding"] == query.vector.tolist()


def test_people_see_how_alike_texts_are(sampan: Any, folder: Path) -> None:
    shown = sampan("embed", str(folder), "-", stdin="\n".join(TEXTS)).stdout
    assert "how alike" in shown
    assert "(96)  Gravity pulls." in shown


def test_packed_weights_embed_and_rerank_too(sampan: Any, folder: Path, vectors: Any, tmp_path: Path) -> None:
    sampan("quantize", str(folder), str(tmp_path / "small"), "--bits", "8")
    with LLM(folder) as whole, LLM(tmp_path / "small") as small:
        assert small.purpose == whole.purpose
        for one, other in zip(whole.embed(TEXTS), small.embed(TEXTS), strict=True):
            assert float(one.vector @ other.vector) > 0.99
    judge = vectors.write(tmp_path / "reranker", pooling=None).path
    sampan("quantize", str(judge), str(tmp_path / "judge"), "--bits", "8")
    with LLM(judge) as whole, LLM(tmp_path / "judge") as small:
        scores = zip(whole.rerank("a", TEXTS), small.rerank("a", TEXTS), strict=True)
        assert all(abs(one - other) < 0.1 for one, other in scores)


def test_any_other_model_and_no_text_are_refused(sampan: Any, folder: Path) -> None:
    refused = sampan("embed", "a text")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "smollm2-135m is no embedding model" in refused.stderr
    refused = sampan("embed", str(folder), "-", stdin="\n")
    assert refused.returncode == 1
    assert "stdin holds no text" in refused.stderr
