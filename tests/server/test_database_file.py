"""The SQLite file: its owner's alone, and never made again by a service that has lost it."""

import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine

from sampan.core.errors import StorageError, UsageError
from sampan.server.storage.database import connect, default_url
from sampan.server.storage.key_table import DatabaseKeys
from sampan.server.storage.keys import digest, generate
from sampan.server.storage.ledger import Entry, Ledger
from sampan.server.storage.usage_table import DAY, Counts, Filter, totals

NOON = 20_000 * DAY + DAY / 2
ENTRY = Entry(NOON, "k", "m", 10, 5)
KEY, SECRET = generate("alice")


def soon(happens: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "made" / "home"


@pytest.fixture
def engine(home: Path) -> Engine:
    return connect(default_url(home))


@pytest.fixture
def ledger(engine: Engine) -> Iterator[Ledger]:
    ledger = Ledger(engine, every=0.02, now=lambda: NOON)
    yield ledger
    ledger.close()


@pytest.fixture
def keys(engine: Engine) -> Iterator[DatabaseKeys]:
    keys = DatabaseKeys(engine, every=0.02)
    keys.add(KEY, digest(SECRET))
    assert keys.find(SECRET) is not None
    yield keys
    keys.close()


def lose(home: Path) -> None:
    for file in home.glob("sampan.db*"):
        file.unlink()


def another(home: Path) -> None:
    """A database that somebody has made since, with tables and no keys."""
    lose(home)
    connect(default_url(home)).dispose()


LOSSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (lose, "sampan.db: the database file is gone: put it back, or restart"),
    "folder removed": (shutil.rmtree, "the database file is gone"),
    "moved": (lambda home: home.rename(home.with_name("away")), "the database file is gone"),
    "replaced": (another, "another file has taken the place of the database: restart to use it"),
    "empty": (lambda home: (lose(home), (home / "sampan.db").touch()), "another file has taken the place"),
    "cut": (lambda home: os.truncate(home / "sampan.db", 0), "no such table|disk I/O error|not a database"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_service_without_its_database_goes_on_with_what_it_knows(
    home: Path, ledger: Ledger, keys: DatabaseKeys, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    lose_it, said = LOSSES[loss]
    ledger.record(ENTRY)
    assert ledger.flush()
    lose_it(home)
    before = {path.name for path in home.parent.rglob("*")}
    ledger.record(ENTRY)
    assert not ledger.flush()
    assert soon(lambda: not keys.healthy)
    for _ in range(3):
        assert not ledger.flush()
    for failing in (ledger.totals, keys.all, lambda: keys.revoke(KEY.id)):
        with pytest.raises(StorageError, match=said):
            failing()
    assert keys.find(SECRET) is not None
    assert keys.find(SECRET[:-1]) is None
    assert (ledger.health.healthy, ledger.health.unsaved_rows, ledger.health.lost) == (False, 1, 0)
    assert ledger.spent_today("k") == 30
    assert {path.name for path in home.parent.rglob("*")} - before <= {"sampan.db-wal", "sampan.db-shm"}
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2  # said once each, not at each try


def test_a_file_that_comes_back_is_used_again(home: Path, ledger: Ledger, keys: DatabaseKeys) -> None:
    home.rename(home.with_name("away"))
    ledger.record(ENTRY)
    assert not ledger.flush()
    assert soon(lambda: not keys.healthy)
    home.with_name("away").rename(home)
    assert soon(lambda: keys.healthy and ledger.health.healthy)
    assert ledger.flush()
    assert sum(totals(connect(default_url(home)), Filter()).values(), Counts()).requests == 1


def test_a_new_file_of_the_same_number_is_not_taken_for_the_old(home: Path, engine: Engine) -> None:
    """A file system gives the number of a removed file to the next one."""
    path = home / "sampan.db"
    for _ in range(20):
        copy = path.read_bytes()
        path.unlink()
        path.write_bytes(copy)
        with pytest.raises(StorageError, match="another file has taken the place"):
            totals(engine, Filter())


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_may_read(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        engine = connect(default_url(tmp_path / "made" / "home"))
        with engine.connect() as reader, engine.begin() as writer:  # its log lies beside it meanwhile
            reader.exec_driver_sql("SELECT * FROM usage").all()
            writer.exec_driver_sql("DELETE FROM usage")
            found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    finally:
        os.umask(before)
    assert {"sampan.db", "sampan.db-wal", "sampan.db-shm"} <= found.keys()
    assert {found.pop("made"), found.pop("home")} == {0o700}
    assert set(found.values()) == {0o600}


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    connect(default_url(tmp_path))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_path_of_odd_signs_and_a_relative_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "a?b#c%20d e&mode=ro\xe4"
    assert totals(connect(default_url(odd)), Filter()) == {}
    assert (odd / "sampan.db").is_file()
    monkeypatch.chdir(tmp_path)
    engine = connect("sqlite:///here.db")
    monkeypatch.chdir("/")
    assert totals(engine, Filter()) == {}
    assert (tmp_path / "here.db").is_file()


def test_closing_one_engine_leaves_the_locks_of_another(home: Path, engine: Engine) -> None:
    """POSIX takes a process's locks away when it closes any handle of the file."""
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM usage")
        other = connect(f"sqlite:///{home / 'other.db'}")
        del other
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run([sys.executable, "-c", script, home / "sampan.db"], capture_output=True)
        assert b"database is locked" in done.stderr


def test_a_database_that_is_no_database_is_reported_and_left_alone(
    home: Path, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    assert ledger.flush()
    with closing(sqlite3.connect(home / "sampan.db")) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    good = (home / "sampan.db").read_bytes()
    (home / "sampan.db").write_bytes(b"this is no database\n" * 1000)
    ledger.record(ENTRY)
    assert not ledger.flush()
    assert not ledger.flush()
    with pytest.raises(StorageError, match=r"sampan\.db: file is not a database"):
        ledger.totals()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    (home / "sampan.db").write_bytes(good)
    assert ledger.flush()
    assert sum(totals(connect(default_url(home)), Filter()).values(), Counts()).requests == 1


@pytest.mark.parametrize(
    "url",
    ["sqlite:///x.db?mode=memory", "sqlite:///file:x.db?uri=true", URL.create("sqlite", database="a\0b")],
)
def test_urls_that_open_something_else(url: str | URL) -> None:
    with pytest.raises(UsageError, match=r"a SQLite database (takes no parameters|needs a file)"):
        connect(url)


def test_a_path_too_long_is_told_short(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="File name too long") as caught:
        connect(default_url(tmp_path / ("n" * 5000)))
    assert len(str(caught.value)) < 400
