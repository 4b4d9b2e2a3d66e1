"""`/v1/embeddings`: what a client is told where no embedding model is served."""

import json
from typing import Any
from urllib.request import urlopen

import openai
import pytest


@pytest.mark.parametrize("input", ["a text", ["two", "texts"], [1, 2, 3], [[1], [2]]])
def test_a_model_that_embeds_nothing_says_so(service: Any, input: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=f"{service.model} is no embedding model") as caught:
        service.openai.embeddings.create(model=service.model, input=input)
    assert (caught.value.param, caught.value.code) == ("model", "unsupported_model")


def test_another_model_is_not_found(service: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="text-embedding-3-small"):
        service.openai.embeddings.create(model="text-embedding-3-small", input="a text")


def test_every_endpoint_is_in_the_document(service: Any) -> None:
    with urlopen(f"{service.url}/openapi.json") as answer:
        paths = json.load(answer)["paths"]
    expected = {
        "/v1/embeddings": {"post"},
        "/v1/responses": {"post"},
        "/v1/responses/{response_id}": {"get", "delete"},
        "/v1/responses/{response_id}/input_items": {"get"},
        "/v1/messages": {"post"},
        "/v1/messages/count_tokens": {"post"},
    }
    assert {path: set(paths[path]) for path in expected} == expected
    error = paths["/v1/messages"]["post"]["responses"]["400"]["content"]["application/json"]["schema"]
    assert (
        error != paths["/v1/responses"]["post"]["responses"]["400"]["content"]["application/json"]["schema"]
    )
    assert "text/event-stream" in paths["/v1/responses"]["post"]["responses"]["200"]["content"]
