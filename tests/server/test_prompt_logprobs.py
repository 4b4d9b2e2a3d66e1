"""The prompt's own log-probabilities over HTTP: OpenAI's `echo`, vLLM's `prompt_logprobs`, lm-eval's
requests."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sampan import LLM
from sampan.core.types import ModelFiles
from sampan.text.export import export_gguf
from sampan.weights.gguf import read_gguf

TEXT = "The capital of France is Paris, and the capital of Italy is"


@pytest.fixture(scope="module")
def llm(default_model: ModelFiles) -> Iterator[LLM]:
    with LLM(default_model, context=512) as llm:
        yield llm


def complete(service: Any, **body: Any) -> dict[str, Any]:
    asked = {"model": service.model, "prompt": TEXT, "temperature": 0, "max_tokens": 3} | body
    reply = httpx.post(f"{service.url}/v1/completions", json=asked, timeout=60)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_echo_gives_the_prompt_and_its_logprobs(service: Any, llm: LLM) -> None:
    ids = llm.encode(TEXT)
    expected = llm.score(TEXT, top=2)
    for prompt in (TEXT, ids):
        (choice,) = complete(service, prompt=prompt, echo=True, logprobs=2)["choices"]
        rows = choice["logprobs"]
        assert choice["text"].startswith(TEXT)
        assert len(rows["tokens"]) == len(ids) + 3
        assert "".join(rows["tokens"]) == choice["text"]
        assert rows["token_logprobs"][: len(ids)] == list(expected.logprobs)
        assert rows["top_logprobs"][0] is None
        tops = [sorted(row.values(), reverse=True) for row in rows["top_logprobs"][1 : len(ids)]]
        assert expected.top_logprobs is not None
        assert tops == [[logprob for _, logprob in top] for top in expected.top_logprobs[1:]]
        assert rows["text_offset"] == [len("".join(rows["tokens"][:n])) for n in range(len(ids) + 3)]


def test_a_prompt_can_be_scored_alone(service: Any, llm: LLM) -> None:
    reply = complete(service, echo=True, logprobs=0, max_tokens=0)
    (choice,) = reply["choices"]
    assert (choice["text"], choice["finish_reason"]) == (TEXT, "length")
    assert choice["logprobs"]["token_logprobs"] == list(llm.score(TEXT).logprobs)
    assert reply["usage"]["completion_tokens"] == 0
    assert complete(service, echo=True, max_tokens=0)["choices"][0]["text"] == TEXT


def test_echo_is_streamed_before_the_answer(service: Any) -> None:
    whole = complete(service, echo=True, logprobs=1)["choices"][0]
    client = service.openai
    text, tokens = "", []
    for chunk in client.completions.create(
        model=service.model, prompt=TEXT, max_tokens=3, temperature=0, echo=True, logprobs=1, stream=True
    ):
        for choice in chunk.choices:
            text += choice.text
            tokens += choice.logprobs.tokens if choice.logprobs else []
    assert (text, tokens) == (whole["text"], whole["logprobs"]["tokens"])


def test_prompt_logprobs_are_those_of_vllm(service: Any, llm: LLM) -> None:
    ids = llm.encode(TEXT)
    expected = llm.score(TEXT, top=3, ranks=True)
    rows = complete(service, prompt_logprobs=3)["choices"][0]["prompt_logprobs"]
    assert rows[0] is None
    assert expected.ranks is not None
    for row, token, logprob, rank in zip(
        rows[1:], ids[1:], expected.logprobs[1:], expected.ranks[1:], strict=True
    ):
        assert row[str(token)] == {
            "logprob": logprob, "rank": rank, "decoded_token": llm.tokenizer.decode([token])
        }  # fmt: skip
        assert sorted(each["rank"] for each in row.values())[:3] == [1, 2, 3]
    chat = httpx.post(
        f"{service.url}/v1/chat/completions", timeout=60,
        json={"model": service.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2,
              "prompt_logprobs": 0},
    ).json()  # fmt: skip
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"max_tokens": 0}, "ask for echo or prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs are not streamed"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        (
            {"prompt": [[1] * 2000] * 20, "echo": True, "logprobs": 20},
            "40000 tokens of prompts: .* at most 3120",
        ),
        ({"prompt": [[1] * 2000] * 33, "echo": True}, "66000 tokens of prompts"),
        ({"prompt": [1] * 2000, "prompt_logprobs": 20, "n": 2}, "2000 tokens of prompts for 2 answers"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(service: Any, body: dict[str, Any], said: str) -> None:
    asked = {"model": service.model, "prompt": TEXT} | body
    reply = httpx.post(f"{service.url}/v1/completions", json=asked, timeout=60)
    assert reply.status_code in (400, 422)
    assert re.search(said, reply.text)


TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {data_files: {test: "%s"}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
metadata: {version: 1}
"""
PROBLEMS = [
    {"question": "The capital of France is", "choices": ["Paris", "banana"], "answer": 0},
    {"question": "Two plus two is", "choices": ["purple", "four"], "answer": 1},
    {"question": "The opposite of hot is", "choices": ["cold", "Tuesday", "seven"], "answer": 0},
]


def test_lm_eval_runs_a_loglikelihood_task(service: Any, llm: LLM, tmp_path: Path) -> None:
    """Unmodified, through its `local-completions`."""
    pytest.importorskip("lm_eval")
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, PROBLEMS)))
    (tmp_path / "tiny.yaml").write_text(TASK % (tmp_path / "problems.jsonl"))
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    export_gguf(read_gguf(llm.files.path).metadata, tokenizer)
    (tokenizer / "config.json").write_text('{"model_type": "llama"}')
    arguments = (
        f"model={service.model},base_url={service.url}/v1/completions,tokenizer={tokenizer},"
        "tokenizer_backend=huggingface,num_concurrent=1,max_retries=1"
    )
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments]
    command += ["--tasks", "tiny", "--include_path", str(tmp_path), "--log_samples"]
    command += ["--output_path", str(tmp_path / "out")]
    own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        command, env=os.environ | own, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (samples,) = (tmp_path / "out").rglob("samples_tiny_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == len(PROBLEMS)
    for row, problem in zip(sorted(rows, key=lambda row: row["doc_id"]), PROBLEMS, strict=True):
        before = llm.encode(str(problem["question"]))
        for (found,), choice in zip(row["resps"], problem["choices"], strict=True):  # type: ignore[arg-type]
            ids = llm.encode(f"{problem['question']} {choice}")
            score = llm.score(ids, start=len(before), ranks=True)
            assert float(found[0]) == pytest.approx(-score.nll, abs=1e-9)
            assert score.ranks is not None
            assert str(found[1]) == str(all(rank == 1 for rank in score.ranks[len(before) :]))
        assert row["acc"] == 1.0
