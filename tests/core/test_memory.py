"""Amounts of memory: as they are written, and as the system tells them."""

from pathlib import Path

import pytest

from sampan.core import memory
from sampan.core.errors import UsageError
from sampan.core.memory import megabytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (5, 5),
        ("4096", 4096),
        ("12 B", 12),
        ("4GiB", 4 * 2**30),
        ("800MB", 800_000_000),
        ("1.5 GB", 1_500_000_000),
        (" 0.5gib ", 2**29),
        ("3kB", 3000),
        ("1TiB", 2**40),
    ],
)
def test_amounts(text: int | str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["4G", "4Gi", "GB", "iB", "", "-1MB", "0", 0, -5, "1e9", "lots", None, True, 1.5]
)
def test_what_is_no_amount(text: object) -> None:
    with pytest.raises(
        UsageError, match="is no amount of memory: write it as 4GiB, 800MB or a number of bytes"
    ):
        parse_bytes(text)  # type: ignore[arg-type]


def test_amounts_for_people() -> None:
    assert (megabytes(98_362_432), megabytes(4 * 2**30)) == ("98.4 MB", "4.29 GB")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GB free, in whose control group files can be put."""
    (tmp_path / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


def test_a_containers_limit_is_the_memory(system: Path) -> None:
    machine = memory.total_memory()
    assert machine is not None
    (system / "memory.max").write_text("max\n")
    assert memory.total_memory() == machine
    (system / "memory.max").write_text("1000000\n")
    assert memory.total_memory() == 1_000_000
    assert memory.fits(900_000) is False
    assert memory.fits(800_000) is True
    assert memory.fits(None) is None


def test_available_is_what_the_container_has_left(system: Path) -> None:
    assert memory.available_memory() == 8_000_000 * 1024
    (system / "memory.max").write_text("1000000000\n")
    (system / "memory.current").write_text("700000000\n")
    assert memory.available_memory() == 300_000_000
    (system / "memory.stat").write_text("anon 1\ninactive_file 200000000\n")
    assert memory.available_memory() == 500_000_000
    (system / "meminfo").write_text("MemTotal: 16000000 kB\n")
    assert memory.available_memory() is None
