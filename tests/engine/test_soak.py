"""The soak run, as `benchmarks/soak.py` does it, in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.usefixtures("default_model")
def test_random_requests_and_aborts_leave_nothing_behind() -> None:
    command = [sys.executable, str(SOAK), "--requests", "150", "--seed", "3"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["finished"] + report["aborted"] == report["requests"] == 150
    assert report["pages_free"] == report["pages"]
    assert min(report["aborted"], report["tokens"], report["found"], report["drafted"]) > 0
    assert report["end_rss_bytes"] - report["warm_rss_bytes"] < 8 << 20
