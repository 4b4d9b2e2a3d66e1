"""An adapter that was trained here, loaded into a service that runs: its answers are `LLM`'s own."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch

from sampan.core.types import SamplingParams
from sampan.llm.load import graph_of
from sampan.llm.model import LLM
from sampan.train.checkpoint import export
from sampan.train.lora import TrainedAdapter
from sampan.train.student import linears_of

if TYPE_CHECKING:
    from conftest import Running, Serve

ASKED: Any = [{"role": "user", "content": "State the final answer to 2 + 3 - 1."}]
HOW: dict[str, Any] = {
    "max_tokens": 16, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def running(serve: "Serve") -> Iterator["Running"]:
    with serve("--max-adapters", "1", "--adapter-rank", "4") as found:
        yield found


def test_a_trained_adapter_answers_over_http_as_in_the_process_that_trained_it(
    running: "Running", tmp_path: Path
) -> None:
    with LLM(adapters=1, adapter_rank=4, context=256, cache_tokens=1024, threads=1) as llm:
        linears = linears_of(graph_of(llm.config), ("q_proj", "v_proj", "down_proj"))
        adapter = TrainedAdapter.begin(linears, rank=4, alpha=8, seed=2)
        with torch.no_grad():
            for part in adapter.parts:
                part.matrix_b.normal_(0, 0.15, generator=torch.Generator().manual_seed(3))
        export(tmp_path / "adapter", adapter, llm.files.name, 8)
        llm.put_adapter("sums", adapter)
        how = SamplingParams(**HOW, logprobs=0)
        own, plain = llm.chat(ASKED, how, adapter="sums"), llm.chat(ASKED, how)
    assert own.tokens != plain.tokens
    assert _ask(running, "sums").status_code == 404
    body = {"lora_name": "sums", "lora_path": str(tmp_path / "adapter")}
    done = httpx.post(f"{running.url}/v1/load_lora_adapter", json=body, timeout=120)
    assert done.status_code == 200, done.text
    (choice,) = _ask(running, "sums").json()["choices"]
    assert choice["message"]["content"] == own.text
    told = [token["logprob"] for token in choice["logprobs"]["content"]]
    assert told == [token.logprob for token in own.logprobs][: len(told)]
    assert len(told) >= own.completion_tokens - 1  # the one that ends an answer has no text
    done = httpx.post(f"{running.url}/v1/unload_lora_adapter", json={"lora_name": "sums"}, timeout=120)
    assert done.status_code == 200, done.text
    assert _ask(running, "sums").status_code == 404


def _ask(running: "Running", model: str) -> httpx.Response:
    body = {"model": model, "messages": ASKED, "logprobs": True, **HOW}
    return httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=120)
