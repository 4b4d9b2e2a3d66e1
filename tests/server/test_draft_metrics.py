"""A service whose model has a layer for multi-token prediction: `/metrics` tells what it drafted, by place of
the draft, and what of that held, and the sums agree with vLLM's names of them."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

DEPTH = 3
Counts = dict[str, list[float]]
NAMES = ("sampan:draft_tokens", "sampan:draft_tokens_accepted")


def by_depth(url: str) -> Counts:
    """Of the layer, what each place of a draft counts."""
    found: Counts = {name: [] for name in NAMES}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            if family.name in found and sample.labels.get("drafter") == "mtp":
                assert int(sample.labels["depth"]) == len(found[family.name]) + 1
                found[family.name].append(sample.value)
    return found


@pytest.mark.parametrize("how", ["mtp", "none"])
def test_metrics_tell_drafts_by_depth(how: str, serve: Any, predicted: Any, tmp_path: Path) -> None:
    predicted.write(tmp_path / "model")
    options = ["--context", "128", "--memory", "300MB", "--name", "drafts", "--draft", how]
    options += ["--draft-tokens", str(DEPTH), "--draft-confidence", "0"] if how == "mtp" else []
    with serve(*options, name=str(tmp_path / "model")) as running:
        running.model = "drafts"
        tokens = 40
        assert running.complete(max_tokens=tokens, temperature=0, ignore_eos=True).status_code == 200
        end = time.monotonic() + 10
        while running.metric("vllm:generation_tokens_total") < tokens and time.monotonic() < end:
            time.sleep(0.05)
        counts, all_ = by_depth(running.url), running.metric("vllm:spec_decode_num_draft_tokens_total")
        while how == "mtp" and sum(counts[NAMES[0]]) == 0 and time.monotonic() < end:
            time.sleep(0.05)  # the engine tells it four times a second
            counts, all_ = by_depth(running.url), running.metric("vllm:spec_decode_num_draft_tokens_total")
        held = running.metric("vllm:spec_decode_num_accepted_tokens_total")
    drafted, accepted = counts.values()
    if how == "none":
        assert (drafted, accepted, all_) == ([], [], 0)
        return
    assert len(drafted) == len(accepted) == DEPTH
    assert sum(drafted) == all_ > 0
    assert sum(accepted) == held > 0
    assert held < tokens
    for depth in range(DEPTH):
        assert accepted[depth] <= drafted[depth]
        assert depth == 0 or drafted[depth] <= drafted[depth - 1]  # no place without the one before it
