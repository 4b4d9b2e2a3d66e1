"""The database: made and brought up to date by whoever starts; errors say where, without passwords."""

import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from sampan.core.errors import StorageError, UsageError
from sampan.server.storage.database import connect, default_url, metadata


def test_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    with connect(default_url(tmp_path)).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_database_is_its_owners_and_lets_readers_read(tmp_path: Path) -> None:
    engine = connect(default_url(tmp_path / "deep" / "home"))
    path = tmp_path / "deep" / "home" / "sampan.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_processes_that_start_at_once_find_one_database(tmp_path: Path) -> None:
    code = f"from sampan.server.storage.database import connect; connect({str(default_url(tmp_path))!r})"
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=-1) for _ in range(2)]
    assert [(each.communicate()[1], each.returncode) for each in started] == [(b"", 0)] * 2
    with connect(default_url(tmp_path)).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """The second table is there already: the first one must not stay."""
    with closing(sqlite3.connect(tmp_path / "sampan.db")) as file:
        file.execute("CREATE TABLE usage (mine TEXT)")
    with pytest.raises(StorageError, match="table usage already exists"):
        connect(default_url(tmp_path))
    with closing(sqlite3.connect(tmp_path / "sampan.db")) as file:
        assert file.execute("SELECT name FROM sqlite_master").fetchall() == [("usage",)]


def test_a_database_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    connect(default_url(tmp_path))
    with closing(sqlite3.connect(tmp_path / "sampan.db")) as file:
        file.execute("UPDATE alembic_version SET version_num = '9999'")
        file.commit()
    with pytest.raises(StorageError, match=r"sampan\.db: .*'9999'; has a newer Sampan used this database\?"):
        connect(default_url(tmp_path))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "cannot be read: sqlite:///FILE"),
        ("hunter2", "cannot be read"),
        ("mysql://me:hunter2@host/db", "no database of the kind 'mysql'"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("postgresql://me:hunter2@[::1:bad/db", "cannot be read"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_without_its_password(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        connect(url)
    assert "hunter2" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/sampan\.db: .*(Not a directory|File exists)"):
        connect(default_url(tmp_path / "file"))


def test_the_migrations_are_part_of_the_package() -> None:
    folder = files("sampan.server.storage") / "migrations"
    assert (folder / "env.py").is_file()
    assert [each.name for each in (folder / "versions").iterdir() if each.name.startswith("v0001")]
