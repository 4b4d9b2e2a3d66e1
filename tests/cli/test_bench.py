"""`sampan bench`: figures that fit together."""

import json
from pathlib import Path
from typing import Any

KEYS = {"batch", "prefill_tps", "decode_tps", "total_tps", "ttft_s", "peak_rss_bytes", "load_s"}
SIZES = {"weights_bytes", "workspace_bytes", "cache_bytes", "cache_tokens", "cache"}
WORDS = ("bench", "--batch", "1,3", "--prompt-tokens", "40")


def test_json_has_the_promised_keys_for_each_batch_size(sampan: Any) -> None:
    done = sampan(*WORDS, "--decode-tokens", "5", "--threads", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["batch"] for row in rows] == [1, 3]
    for row in rows:
        assert set(row) >= KEYS | SIZES
        assert (row["threads"], row["prompt_tokens"], row["decode_tokens"]) == (1, 40, 5)
        assert row["load_s"] > 0
        assert (row["cache"], row["cache_bytes"]) == ("bf16", row["cache_tokens"] * 23_040)
        assert 3 * 45 <= row["cache_tokens"] <= 3 * 45 + 4 * 32
        assert 50e6 < row["peak_rss_bytes"] < 4e9
        prefill = row["batch"] * 40 / row["prefill_tps"]
        assert 0 < row["ttft_s"] <= prefill * 1.001
        if row["batch"] == 1:  # every token is either the first, or given after it
            seconds = prefill + 4 / row["decode_tps"]
            assert abs(45 / row["total_tps"] - seconds) < 1e-6 * seconds


def test_table_says_when_nothing_was_decoded(sampan: Any) -> None:
    header, *lines = sampan(*WORDS, "--decode-tokens", "1").stdout.splitlines()
    assert header.split()[0] == "batch"
    assert [(line.split()[0], line.split()[2]) for line in lines] == [("1", "-"), ("3", "-")]


def test_a_budget_holds_or_is_refused(sampan: Any) -> None:
    words = (*WORDS, "--decode-tokens", "2", "--json")
    row = json.loads(sampan(*words, "--memory", "160MB").stdout.splitlines()[0])
    assert row["weights_bytes"] + row["workspace_bytes"] + row["cache_bytes"] <= 160e6
    done = sampan("bench", "--batch", "64", "--memory", "500MB", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "500.0 MB are allowed: " in done.stderr
    assert "sequences with bf16 cache would fit" in done.stderr


def test_experts_on_disk_say_what_they_took(sampan: Any, mixture: Path, tmp_path: Path) -> None:
    words = ("bench", str(mixture), "--batch", "1,2", "--prompt-tokens", "20", "--decode-tokens", "5")
    home = {"SAMPAN_HOME": str(tmp_path)}
    assert "packing the experts of" in sampan(*words, "--expert-memory", "1MB", **home).stderr
    done = sampan(*words, "--expert-memory", "400kB", "--json", **home)
    assert (done.returncode, done.stderr) == (0, "")
    for row in map(json.loads, done.stdout.splitlines()):
        experts = row["experts"]
        assert experts["tokens"] == row["batch"] * 24  # the last token goes nowhere
        assert experts["slots"] * experts["bytes_each"] <= 400_000
        assert 0 < experts["hit_rate"] < 1
        assert experts["bytes_per_token"] == experts["bytes_read"] / experts["tokens"] > 0
        assert experts["waited_s"] >= 0
    header = sampan(*words, "--expert-memory", "400kB", **home).stdout.splitlines()[0]
    assert header.endswith("  waited s")
    assert json.loads(sampan(*words, "--json", **home).stdout.splitlines()[0])["experts"] is None
    refused = sampan(*words, "--expert-memory", "1kB", **home)
    assert refused.returncode == 1
    assert "one token goes through 12 experts in 3 layers, " in refused.stderr
