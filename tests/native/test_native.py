"""Compiles and runs the C++ tests: every instruction set of this machine equals the scalar kernels bit for
bit, and the pool keeps its promises. `make asan` and `make neon` run the same programs elsewhere."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def output() -> str:
    """What the programs print; what they have to say when one fails."""
    command = ["make", "--no-print-directory", "-f", "native.mk", "native"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_no_check_fails_and_thousands_ran(output: str) -> None:
    totals = re.findall(r"^(\d+) passed, (\d+) failed$", output, re.MULTILINE)
    assert [failed for _, failed in totals] == ["0", "0"]
    assert int(totals[0][0]) > 5000


def test_every_instruction_set_computes_the_same_bits(output: str) -> None:
    digests = dict(re.findall(r"^digest (\w+) ([0-9a-f]{16})$", output, re.MULTILINE))
    assert "scalar" in digests
    assert len(set(digests.values())) == 1, digests
