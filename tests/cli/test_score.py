"""`sampan score`: log-probabilities of given tokens, window by window."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors.numpy

from sampan.core.types import ModelFiles
from sampan.text.tokenizer import Tokenizer
from sampan.weights.checkpoint import open_checkpoint

TEXT = "The Nile flows north through Egypt into the Mediterranean Sea. It is the longest river in Africa."


def _rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_text_is_cut_into_windows_that_score_like_their_ids(
    sampan: Any, default_model: ModelFiles, tmp_path: Path, terminal: Callable[[], Any]
) -> None:
    (tmp_path / "text").write_text(TEXT)
    rows = _rows(sampan("score", "--text", str(tmp_path / "text"), "--context", "8", "--json").stdout)
    with open_checkpoint(default_model) as checkpoint:
        ids = Tokenizer.from_gguf(checkpoint.metadata).encode(TEXT)
    assert [row["ids"] for row in rows] == [ids[at : at + 8] for at in range(0, len(ids), 8)]

    (tmp_path / "ids").write_text(json.dumps([row["ids"] for row in rows]))
    screen = terminal()
    words = ("score", "smollm2-135m", "--ids", str(tmp_path / "ids"), "--json")
    process = sampan.start(*words, stderr=screen.inside)
    assert _rows(process.communicate(timeout=60)[0]) == rows
    assert "scoring" in screen.rest()
    for row in rows:
        _check(row)


def _check(row: dict[str, Any]) -> None:
    assert set(row) == {"ids", "logprobs", "nll", "perplexity"}
    assert row["logprobs"][0] is None
    scored = row["logprobs"][1:]
    assert len(scored) == len(row["ids"]) - 1
    assert all(value < 0 for value in scored)
    assert row["nll"] == pytest.approx(-sum(scored))
    assert row["perplexity"] == (pytest.approx(math.exp(row["nll"] / len(scored))) if scored else None)


def test_scores_are_the_samplers_own_log_probabilities(sampan: Any, tmp_path: Path) -> None:
    """What `run` reports of each token it chose, `score` gives back: bit for bit, prefill or decode."""
    words = ("run", "--raw", TEXT, "--temperature", "0", "--max-tokens", "8", "--json", "--logprobs", "0")
    answer = json.loads(sampan(*words).stdout)
    (tmp_path / "text").write_text(TEXT)
    prompt = _rows(sampan("score", "--text", str(tmp_path / "text"), "--json").stdout)[0]["ids"]
    chosen = [token["id"] for token in answer["logprobs"]]
    (tmp_path / "ids").write_text(json.dumps(prompt + chosen))
    row = _rows(sampan("score", "--ids", str(tmp_path / "ids"), "--json").stdout)[0]
    assert row["logprobs"][-8:] == [token["logprob"] for token in answer["logprobs"]]


def test_table_has_a_line_for_each_sequence_and_one_for_all(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("[[1, 2, 3], [4]]")
    lines = sampan("score", "--ids", str(tmp_path / "ids")).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["sequence", "0", "1", "all"]
    assert lines[2].split() == ["1", "1", "0.0000", "-"]
    assert lines[3].split()[1:] == ["4", *lines[1].split()[2:]]


def test_ids_are_scored_where_tokens_cannot_be_read(sampan: Any, sentencepiece: Any, tmp_path: Path) -> None:
    """A tokenizer without a decoder is no hindrance to ids; an answer in its words is refused by name."""
    folder = tmp_path / "model"
    folder.mkdir()
    sentencepiece.write_model(folder)
    (tmp_path / "ids").write_text("[1, 300, 301, 302]")
    words = ("score", str(folder), "--ids", str(tmp_path / "ids"), "--json")
    expected = _rows(sampan(*words).stdout)
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"decoder": None}), "utf-8")
    assert _rows(sampan(*words).stdout) == expected
    refused = sampan("run", str(folder), "Hello", "--max-tokens", "4")
    assert refused.returncode == 1
    assert "field decoder is empty, so that tokens cannot be read as text" in refused.stderr


def test_what_a_file_has_too_much_is_told_on_one_line(
    sampan: Any, sentencepiece: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    sentencepiece.write_model(folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["v_head.summary.weight"] = numpy.ones((1, 64), numpy.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (tmp_path / "ids").write_text("[1, 300]")
    told = sampan("score", str(folder), "--ids", str(tmp_path / "ids"), "--json").stderr.splitlines()
    assert [line for line in told if "passed over" in line] == [
        f"sampan: {folder}: passed over 'v_head.summary.weight': a head beside the one of llama, which gives "
        "no tokens"
    ]
