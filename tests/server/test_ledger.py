"""The ledger: what it counts, and that nothing is lost or counted twice when the database fails it."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sampan.server.storage.database import connect, default_url
from sampan.server.storage.ledger import Entry, Ledger
from sampan.server.storage.usage_table import DAY, HOUR, Batch, Counts, Filter, Slot, totals, write

NOON = 20_000 * DAY + DAY / 2


def entry(
    key: str | None = "k", model: str = "m", at: float = NOON, prompt: int = 10, answer: int = 5
) -> Entry:
    return Entry(at, key, model, prompt, answer, cached_tokens=4, reasoning_tokens=2, seconds=0.5)


ONE = Counts(1, 10, 4, 5, 2, 0.5)


def times(count: int) -> Counts:
    return sum([ONE] * count, Counts())


def soon(happens: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    """Of an almost idle service: it writes when it is told to."""
    ledger = Ledger(connect(default_url(home)), every=60, now=lambda: NOON)
    yield ledger
    ledger.close()


def in_file(home: Path, name: str = "sampan.db") -> dict[tuple[str | None, str], Counts]:
    return totals(connect(f"sqlite:///{home / name}"), Filter())


def test_usage_is_summed_per_hour_key_and_model(home: Path, ledger: Ledger) -> None:
    for key, model, at in [("a", "m", 0), ("a", "m", 1), ("a", "n", 0), ("b", "m", 0), (None, "m", HOUR)]:
        ledger.record(entry(key, model, NOON + at))
    by_memory = ledger.totals()
    assert ledger.flush()
    assert in_file(home) == ledger.totals() == by_memory
    assert by_memory == {("a", "m"): times(2), ("a", "n"): ONE, ("b", "m"): ONE, (None, "m"): ONE}
    ledger.record(entry("a"))
    assert ledger.totals()["a", "m"] == times(3)
    with closing(sqlite3.connect(home / "sampan.db")) as file:
        assert file.execute("SELECT count(*) FROM usage").fetchone() == (4,)
    assert times(3).tokens == 45


@pytest.mark.parametrize("written", [True, False])
def test_totals_of_a_time_a_key_and_a_model(ledger: Ledger, written: bool) -> None:
    for hour in range(4):
        for key in ("a", None):
            ledger.record(entry(key, f"m{hour % 2}", NOON + hour * HOUR))
    if written:
        assert ledger.flush()
    assert ledger.totals(Filter(since=NOON + 1.5 * HOUR, key="a")) == {
        ("a", "m0"): ONE,
        ("a", "m1"): times(2),
    }
    assert ledger.totals(Filter(until=NOON + HOUR, key="")) == {(None, "m0"): ONE}
    assert ledger.totals(Filter(model="m1")) == {("a", "m1"): times(2), (None, "m1"): times(2)}
    assert ledger.totals(Filter(key="nobody")) == {}


def test_it_writes_by_itself_and_goes_on_after_a_restart(home: Path) -> None:
    for _ in range(2):
        ledger = Ledger(connect(default_url(home)), every=0.02, now=lambda: NOON)
        ledger.record(entry())
        assert soon(lambda ledger=ledger: ledger.health.unsaved_rows == 0)  # type: ignore[misc]
        ledger.record(entry())
        assert ledger.close()
    assert in_file(home) == {("k", "m"): times(4)}


def test_two_services_write_into_one_database(home: Path) -> None:
    ledgers = [Ledger(connect(default_url(home)), every=0.001, now=lambda: NOON) for _ in range(2)]
    for n in range(300):
        for ledger in ledgers:
            ledger.record(entry(key=str(n % 7)))
    assert [ledger.close() for ledger in ledgers] == [True, True]
    assert sum(in_file(home).values(), Counts()) == times(600)


def test_spent_today_is_of_this_day_and_survives_a_restart(home: Path) -> None:
    now = [NOON]
    first = Ledger(connect(default_url(home)), every=60, now=lambda: now[0])
    first.record(entry("a"))
    first.record(entry("a", at=NOON - DAY))
    first.record(entry("b"))
    assert first.spent_today("a") == 15
    assert first.close()
    second = Ledger(connect(default_url(home)), every=60, now=lambda: now[0])
    second.record(entry("a"))
    assert (second.spent_today("a"), second.spent_today("b"), second.spent_today("c")) == (30, 15, 0)
    assert second.flush()
    assert second.spent_today("a") == 30
    now[0] += DAY / 2  # midnight
    assert second.spent_today("a") == 0
    second.record(entry("a", at=now[0]))
    assert second.spent_today("a") == 15
    assert second.close()


def test_a_batch_counts_once_however_often_it_is_written(home: Path) -> None:
    """The answer to a commit can be lost: then the same batch comes again."""
    engine = connect(default_url(home))
    slot = Slot(int(NOON), "k", "m")
    first, second = Batch("w", 1, {slot: ONE}), Batch("w", 2, {slot: ONE})
    spent = [write(engine, batch, NOON)["k"] for batch in (first, first, second, second, first)]
    assert spent == [15, 15, 30, 30, 30]
    write(engine, Batch("other", 1, {slot: ONE}), NOON)
    assert totals(engine, Filter()) == {("k", "m"): times(3)}


def test_recording_takes_any_text_and_never_fails(home: Path, ledger: Ledger) -> None:
    for text in ("", "\0", "\ud800", "é" * 10_000, "'; DROP TABLE usage; --", "%s :id {}"):
        ledger.record(entry(text, text))
    assert ledger.flush()
    assert sum(in_file(home).values(), Counts()) == times(6)


def test_memory_is_bounded_and_what_finds_no_room_is_counted(home: Path) -> None:
    ledger = Ledger(connect(default_url(home)), every=60, most_rows=3)
    for key in ("a", "b", "c", "d", "a", "e"):
        ledger.record(entry(key))
    assert (ledger.health.unsaved_rows, ledger.health.lost) == (3, 2)
    assert ledger.close()
    assert sum(in_file(home).values(), Counts()) == times(4)


# Faults.


def test_a_locked_database_holds_up_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.server.storage.sqlite_file.BUSY_SECONDS", 0.05)
    ledger = Ledger(connect(default_url(home)), every=0.02, now=lambda: NOON)
    other = subprocess.Popen([sys.executable, "-c", LOCK, str(home / "sampan.db")], stdin=-1, stdout=-1)
    assert other.stdout is not None
    assert other.stdout.readline() == b"locked\n"
    start = time.monotonic()
    for _ in range(1000):
        ledger.record(entry())
    assert time.monotonic() - start < 5
    assert soon(lambda: not ledger.health.healthy)
    assert "locked" in str(ledger.health.error)
    assert not ledger.flush()
    assert ledger.spent_today("k") == 15_000
    other.communicate(b"\n")
    assert soon(lambda: ledger.health.healthy)
    assert ledger.close()
    assert in_file(home) == {("k", "m"): times(1000)}


LOCK = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""


def test_a_disk_without_room_loses_nothing(tmp_path: Path) -> None:
    """In a process whose files may not grow, as a quota does it; then the limit is lifted."""
    done = subprocess.run([sys.executable, "-c", QUOTA, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["False", "True"]), done.stderr
    assert sum(in_file(tmp_path).values(), Counts()).requests == 5000


QUOTA = """
import resource, sys
from pathlib import Path
from sampan.server.storage.database import connect, default_url
from sampan.server.storage.ledger import Entry, Ledger
ledger = Ledger(connect(default_url(Path(sys.argv[1]))), every=60)
resource.setrlimit(resource.RLIMIT_FSIZE, (64_000, resource.RLIM_INFINITY))
for n in range(5000):
    ledger.record(Entry(0, f"key {n}", "model", 1, 1))
print(ledger.flush())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
print(ledger.close())
"""


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 kB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a disk to fill")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this sandbox mounts no tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_loses_nothing(tmpfs: Path) -> None:
    ledger = Ledger(connect(default_url(tmpfs)), every=0.02)
    ledger.record(entry("before"))
    assert ledger.flush()
    with pytest.raises(OSError, match="No space left"):
        (tmpfs / "filler").write_bytes(bytes(1 << 20))
    for n in range(500):
        ledger.record(entry(f"key {n}"))
    assert not ledger.flush()
    assert "full" in str(ledger.health.error) or "I/O" in str(ledger.health.error)
    ledger.record(entry("before"))
    assert ledger.health.lost == 0
    (tmpfs / "filler").unlink()
    assert soon(lambda: ledger.health.healthy)
    assert ledger.close()
    found = in_file(tmpfs)
    assert (sum(found.values(), Counts()), found["before", "m"]) == (times(502), times(2))


def test_a_disk_that_turned_read_only_loses_nothing(tmpfs: Path) -> None:
    ledger = Ledger(connect(default_url(tmpfs)), every=0.02)
    assert ledger.flush()
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    ledger.record(entry())
    assert not ledger.flush()
    assert not ledger.close()  # it says that something is left
    subprocess.run(["mount", "-o", "remount,rw", tmpfs], check=True)
    assert in_file(tmpfs) == {}


def test_a_service_that_is_killed_leaves_a_sound_database(home: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(home)], stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.kill()
    process.communicate()
    written = in_file(home)["k", "m"]
    assert written == Counts(written.requests, written.requests, 0, written.requests, 0, 0.0)
    assert written.requests > 0
    with closing(sqlite3.connect(home / "sampan.db")) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


KILLED = """
import sys
from pathlib import Path
from sampan.server.storage.database import connect, default_url
from sampan.server.storage.ledger import Entry, Ledger
ledger = Ledger(connect(default_url(Path(sys.argv[1]))), every=0.001)
ledger.record(Entry(0, "k", "m", 1, 1))
ledger.flush()
print("running", flush=True)
while True:
    ledger.record(Entry(0, "k", "m", 1, 1))
    ledger.flush()
"""
