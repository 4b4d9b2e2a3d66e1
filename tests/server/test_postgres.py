"""Keys, ledger and migrations on a real PostgreSQL, started here; skipped where there is none."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from sampan.core.errors import StorageError
from sampan.server.storage.database import connect, metadata, where
from sampan.server.storage.key_table import DatabaseKeys
from sampan.server.storage.keys import digest, generate
from sampan.server.storage.ledger import Entry, Ledger
from sampan.server.storage.usage_table import Counts, Filter, totals

pytest.importorskip("psycopg", reason="no PostgreSQL driver: pip install 'sampan[postgres]'")


@dataclass
class Postgres:
    """A server of its own on a Unix socket, which can be killed and started again."""

    programs: Path
    folder: Path
    user: str | None
    process: "subprocess.Popen[bytes] | None" = None

    def run(self, program: str, *options: str) -> None:
        command = [self.programs / program, *options]
        subprocess.run(command, check=True, capture_output=True, user=self.user, cwd=self.folder)

    def start(self) -> None:
        options = [
            "-D",
            self.folder / "data",
            "-k",
            self.folder,
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
        ]
        self.process = subprocess.Popen(
            [self.programs / "postgres", *options], user=self.user, cwd=self.folder, stderr=subprocess.DEVNULL
        )
        ready = [self.programs / "pg_isready", "-q", "-h", self.folder]
        end = time.monotonic() + 20
        while subprocess.run(ready).returncode:
            assert time.monotonic() < end, "PostgreSQL does not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """As a crash does it: SIGQUIT, and no goodbye to anybody."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://sampan:hunter2@/{database}?host={self.folder}"


def _programs() -> Path | None:
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))  # Debian's place, not in PATH
    return versions[-1].parent if versions else None


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    programs = _programs()
    if programs is None:
        pytest.skip("no postgres binary was found (Debian: apt install postgresql)")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="sampan-pg-") as name:
        server = Postgres(programs, Path(name), user)
        if user is not None:
            shutil.chown(name, user)
        server.run("initdb", "-D", f"{name}/data", "-U", "sampan", "-A", "trust", "--no-sync")
        server.start()
        yield server
        server.stop()


@pytest.fixture
def postgres(server: Postgres) -> Postgres:
    """The server, with the tables dropped."""
    engine = connect(server.url())
    with engine.begin() as connection:
        for table in (*metadata.tables, "alembic_version"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    engine.dispose()
    return server


def test_processes_that_start_at_once_make_the_tables_once(postgres: Postgres) -> None:
    failed: list[BaseException] = []

    def start() -> None:
        try:
            connect(postgres.url()).dispose()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    engine = connect(postgres.url())
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_keys(postgres: Postgres) -> None:
    engine = connect(postgres.url())
    keys = DatabaseKeys(engine, every=0.02)
    key, secret = generate("alice")
    keys.add(key, digest(secret))
    assert keys.find(secret) == key
    assert keys.find(secret + "x") is None
    gone = keys.revoke(key.id)
    assert keys.all() == [gone]
    end = time.monotonic() + 5
    while keys.find(secret) is not None:
        assert time.monotonic() < end
        time.sleep(0.01)
    keys.close()
    engine.dispose()


def test_a_server_that_crashes_and_comes_back_costs_no_usage(postgres: Postgres) -> None:
    engine = connect(postgres.url())
    ledgers = [Ledger(engine, every=0.005) for _ in range(2)]
    recorded = 0
    for crash in range(3):
        for n in range(60):
            for ledger in ledgers:
                ledger.record(Entry(time.time(), f"key {n % 5}", "m", 10, 5, seconds=0.25))
            recorded += 2
            time.sleep(0.001)
            if n == 30 and crash < 2:
                postgres.stop()
        assert crash == 2 or not ledgers[0].flush()
        if crash < 2:
            assert not ledgers[0].health.healthy
            assert "hunter2" not in str(ledgers[0].health.error)
            postgres.start()
        assert all(ledger.flush() for ledger in ledgers)
    assert [ledger.close() for ledger in ledgers] == [True, True]
    assert sum(totals(engine, Filter()).values(), Counts()) == Counts(
        recorded, 10 * recorded, 0, 5 * recorded, 0, 0.25 * recorded
    )
    assert ledgers[0].spent_today("key 1") <= 15 * recorded
    engine.dispose()


def test_errors_name_the_place_without_user_and_password(postgres: Postgres) -> None:
    with pytest.raises(
        StorageError, match=r'postgresql://localhost:5432/none: .*"none" does not exist'
    ) as caught:
        connect(postgres.url("none"))
    assert "hunter2" not in str(caught.value)
    engine = connect(postgres.url())
    assert where(engine) == "postgresql://localhost:5432/postgres"
    engine.dispose()
