"""The attacks of `benchmarks/hold.py`, in small: what they show but for timings, which no test should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HOLD = Path(__file__).parents[2] / "benchmarks" / "hold.py"


@pytest.mark.usefixtures("default_model")
def test_attacks_leave_the_service_as_it_was() -> None:
    command = [sys.executable, str(HOLD), "--seconds", "40", "--kills", "3", "--clients", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["faults"] == []
    assert report["end"]["slots"][0] == report["end"]["slots"][1] > 0
    assert len(report["attacks"]) == 8
    assert min(row["tried"] for row in report["attacks"].values()) > 0
    assert len(report["kills"]) == 3
