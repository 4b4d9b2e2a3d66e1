"""`/v1/embeddings` and `/v1/rerank` of models that are made for them, with clients as they are."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from sampan import LLM

TEXTS = ["The capital of China is Beijing.", "Gravity", "naïve 日本"]
DOCUMENTS = ["Beijing.", "Gravity pulls.", "Nothing of that"]


@pytest.fixture(scope="module")
def folder(vectors: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return vectors.write(tmp_path_factory.mktemp("served") / "embedding").path


@pytest.fixture(scope="module")
def judge(vectors: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return vectors.write(tmp_path_factory.mktemp("served") / "reranker", pooling=None).path


@pytest.fixture(scope="module")
def embedding(serve: Any, folder: Any) -> Iterator[Any]:
    with serve("--name", "tiny", name=str(folder)) as running:
        running.model = "tiny"
        yield running


def test_openais_client_gets_the_vectors(embedding: Any, folder: Any) -> None:
    with LLM(folder) as llm:
        expected = llm.embed(TEXTS)
        short = llm.embed(TEXTS[0], dimensions=8)
        ids = llm.tokenizer.encode(TEXTS[0], closed=True)
    for form in ("float", "base64", openai.omit):  # the client asks for base64 where nothing is said
        reply = embedding.openai.embeddings.create(model="tiny", input=TEXTS, encoding_format=form)
        assert [each.index for each in reply.data] == [0, 1, 2]
        for each, one in zip(reply.data, expected, strict=True):
            found = each.embedding
            if isinstance(found, str):
                continue
            assert np.array_equal(np.array(found, np.float32), one.vector)
        assert reply.usage.prompt_tokens == sum(one.tokens for one in expected)
    one = embedding.openai.embeddings.create(model="tiny", input=TEXTS[0], dimensions=8).data[0]
    assert np.array_equal(np.array(one.embedding, np.float32), short.vector)
    for given in (ids, [ids]):
        again = embedding.openai.embeddings.create(model="tiny", input=given).data[0]
        assert np.array_equal(np.array(again.embedding, np.float32), expected[0].vector)


def test_many_texts_in_one_request(embedding: Any) -> None:
    texts = [f"text {n % 7}" for n in range(300)]
    reply = embedding.openai.embeddings.create(model="tiny", input=texts)
    rows = [tuple(each.embedding) for each in reply.data]
    assert rows == [rows[n % 7] for n in range(300)]
    assert len(set(rows)) == 7


def test_a_prompt_of_the_model_is_chosen_by_its_name(embedding: Any, vectors: Any) -> None:
    def ask(**body: Any) -> Any:
        return httpx.post(
            f"{embedding.url}/v1/embeddings", json={"model": "tiny", "input": "a"} | body, timeout=60
        )

    whole = ask(input=vectors.QUERY + "a").json()["data"]
    assert ask(prompt_name="query").json()["data"] == whole
    assert "'passage'" in ask(prompt_name="passage").json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"input": []}, 400, "input is empty"),
        ({"input": ["a"] * 2049}, 400, "at most 2048"),
        ({"input": [9999]}, 400, "ids are below"),
        ({"input": "x" * 600}, 400, "512"),
        ({"input": [[]]}, 400, "empty"),
        ({"input": "a", "dimensions": 97}, 400, "from 1 to 96"),
        ({"input": "a", "model": "other"}, 404, "'other'"),
        ({"input": "a", "prompt_name": "passage"}, 400, "'passage'"),
    ],
)
def test_what_cannot_be_embedded_is_refused(
    embedding: Any, body: dict[str, Any], status: int, said: str
) -> None:
    reply = httpx.post(f"{embedding.url}/v1/embeddings", json={"model": "tiny"} | body, timeout=60)
    assert reply.status_code == status, reply.text
    assert said in reply.json()["error"]["message"]


def test_an_embedding_model_answers_nothing_and_is_well(embedding: Any) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 1}
    reply = httpx.post(f"{embedding.url}/v1/completions", json=body, timeout=60)
    assert (reply.status_code, "embedding model" in reply.text) == (400, True)
    assert httpx.get(f"{embedding.url}/ready", timeout=60).status_code == 200
    reply = httpx.post(
        f"{embedding.url}/v1/rerank", json={"model": "tiny", "query": "a", "documents": ["b"]}, timeout=60
    )
    assert (reply.status_code, "no reranking model" in reply.text) == (400, True)


def test_documents_come_in_the_order_of_their_relevance(serve: Any, judge: Any) -> None:
    with LLM(judge) as llm:
        expected = llm.rerank("What is it?", DOCUMENTS, instruction="Find it")
    order = sorted(range(3), key=lambda n: -expected[n])
    with serve("--name", "judge", name=str(judge)) as running:
        body = {"model": "judge", "query": "What is it?", "documents": DOCUMENTS, "instruction": "Find it"}
        reply = httpx.post(f"{running.url}/v1/rerank", json=body, timeout=60)
        assert reply.status_code == 200, reply.text
        found = reply.json()
        assert [(row["index"], row["relevance_score"]) for row in found["results"]] == [
            (n, expected[n]) for n in order
        ]
        assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 0
        body |= {"documents": [{"text": text} for text in DOCUMENTS], "top_n": 1, "return_documents": True}
        (best,) = httpx.post(f"{running.url}/v1/rerank", json=body, timeout=60).json()["results"]
        assert best["document"] == {"text": DOCUMENTS[order[0]]}
        for wrong, said in (({"documents": []}, "give 1 to 2048"), ({"documents": ["x" * 600]}, "512")):
            refused = httpx.post(f"{running.url}/v1/rerank", json=body | wrong, timeout=60)
            assert (refused.status_code, said in refused.text) == (400, True), refused.text
        answer = running.openai.completions.create(model="judge", prompt="a", max_tokens=2)
        assert answer.usage.completion_tokens > 0


def test_a_model_that_judges_nothing_says_so(service: Any) -> None:
    body = {"model": service.model, "query": "a", "documents": ["b"]}
    reply = httpx.post(f"{service.url}/v1/rerank", json=body, timeout=60)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, "model", "unsupported_model")
    assert f"{service.model} is no reranking model" in error["message"]
