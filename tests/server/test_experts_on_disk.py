"""A service whose model has its experts on disk: it answers, and `/metrics` tells what reading takes."""

from pathlib import Path
from typing import Any

import httpx


def test_metrics_tell_what_reading_experts_takes(
    serve: Any, service: Any, mixture: Path, tmp_path: Path
) -> None:
    options = ("--expert-memory", "400kB", "--context", "128", "--memory", "300MB", "--name", "mixture")
    with serve(*options, name=str(mixture), SAMPAN_HOME=str(tmp_path)) as running:
        running.model = "mixture"
        assert running.complete(max_tokens=9, temperature=0, ignore_eos=True).status_code == 200
        lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    found = {
        line.split("{")[0]: float(line.split()[-1]) for line in lines if line.startswith("sampan:expert_")
    }
    asked, hits = found["sampan:expert_uses_total"], found["sampan:expert_hits_total"]
    read, tokens = found["sampan:expert_read_bytes_total"], found["sampan:expert_tokens_total"]
    assert asked > 0
    assert found["sampan:expert_hit_rate"] == hits / asked < 1
    assert found["sampan:expert_bytes_per_token"] == read / tokens > 0
    assert read % found["sampan:expert_reads_total"] == 0
    assert found["sampan:expert_slots"] >= 12
    assert found["sampan:expert_reads_ahead_used_total"] <= found["sampan:expert_reads_ahead_total"]
    assert found["sampan:expert_wait_seconds_total"] >= 0
    assert "sampan:expert_" not in httpx.get(f"{service.url}/metrics").text
