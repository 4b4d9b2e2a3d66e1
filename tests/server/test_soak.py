"""The soak run of the service, as `benchmarks/soak_serve.py` does it, in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak_serve.py"


@pytest.mark.usefixtures("default_model")
def test_mixed_requests_and_clients_that_hang_up_leave_nothing_behind() -> None:
    command = [sys.executable, str(SOAK), "--requests", "300", "--seed", "3"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["lost"] == []
    assert sum(report["answered"].values()) + sum(report["left"].values()) == report["requests"] == 300
    assert set(report["left"]) == {"headers", "body", "queue", "answer"}
    assert len(report["answered"]) == 8  # four kinds, each streamed and whole
    assert report["cache_used"] == report["running"] == report["waiting"] == report["restarts"] == 0
    assert min(report["aborted"], report["prefix_hits"], report["tokens"]) > 0
