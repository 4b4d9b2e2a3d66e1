"""`sampan bench`: figures that fit together."""

import json
from typing import Any

KEYS = {"batch", "prefill_tps", "decode_tps", "total_tps", "ttft_s", "peak_rss_bytes", "load_s"}
WORDS = ("bench", "--batch", "1,3", "--prompt-tokens", "40")


def test_json_has_the_promised_keys_for_each_batch_size(sampan: Any) -> None:
    done = sampan(*WORDS, "--decode-tokens", "5", "--threads", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["batch"] for row in rows] == [1, 3]
    for row in rows:
        assert set(row) >= KEYS
        assert (row["threads"], row["prompt_tokens"], row["decode_tokens"]) == (1, 40, 5)
        assert row["load_s"] > 0
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
