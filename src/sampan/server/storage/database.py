"""The database of keys and usage: SQLite beside the cache unless a URL names another file or PostgreSQL.

Contract: `connect` gives an engine whose tables are up to date; several processes may start at once. Times
are whole seconds since the epoch. Errors are `StorageError` and `UsageError`, and never show a password.
"""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from sampan.core.errors import StorageError, UsageError, quoted, shortened
from sampan.server.storage.sqlite_file import SqliteFile

_ADVISORY_LOCK = 0x73616D70616E  # "sampan"
_alembic = threading.Lock()  # its context is one for the whole process

metadata = MetaData()

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("tokens_per_day", BigInteger),
    Column("models", JSON, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger),
    Column("revoked", BigInteger),
)

usage = Table(
    "usage",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("key_id", Text, primary_key=True),  # "" where no key was asked for
    Column("model", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
)

# The last batch of each running ledger: one whose commit was cut off is not counted twice.
ledger_batches = Table(
    "ledger_batches",
    metadata,
    Column("writer", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("written", BigInteger, nullable=False),
)


def default_url(home: Path) -> URL:
    """The database in `SAMPAN_HOME`."""
    return URL.create("sqlite", database=str(home / "sampan.db"))


def connect(url: str | URL) -> Engine:
    """An engine for `url`, its tables made or brought up to date.

    Where other processes do the same, one works and the others wait. Later, a SQLite file that is gone is not
    made again: that is a `StorageError`.
    """
    parsed = _parsed(url)
    return _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)


def where(engine: Engine) -> str:
    """The database in words, without user or password."""
    url = engine.url
    if url.get_backend_name() == "sqlite":
        return shortened(url.database)
    return f"postgresql://{url.host or 'localhost'}:{url.port or 5432}/{url.database}"


@contextmanager
def storage(engine: Engine) -> Iterator[None]:
    """Turn what the database, its driver or its disk raise into a `StorageError`."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:  # a lock's Timeout is one of these
        raise StorageError(f"{where(engine)}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What a database's driver said, on one line, without the statement and its values."""
    said = error.orig if isinstance(error, DBAPIError) else getattr(error, "strerror", None) or error
    return " ".join(str(said).split()) or type(error).__name__


def _parsed(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the second for a port that is none
        raise UsageError(
            "the database's URL cannot be read: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
        ) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise UsageError(
            f"no database of the kind {quoted(parsed.drivername)}: sqlite:///FILE or postgresql://…"
        )
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:") or "\0" in str(parsed.database):
            raise UsageError("a SQLite database needs a file, which every process can open: sqlite:///FILE")
        if parsed.query:
            raise UsageError("a SQLite database takes no parameters behind its file: sqlite:///FILE")
    return parsed


def _sqlite(url: URL) -> Engine:
    file = SqliteFile(Path(str(url.database)))
    # A connection that is kept would go on writing to a file that somebody has removed.
    engine = create_engine(url, hide_parameters=True, poolclass=NullPool, creator=file.open)
    event.listen(engine, "begin", _begin)
    with storage(engine), file.made():
        with closing(engine.raw_connection()) as connection:
            # Readers and the writer do not wait for each other. Not every file system can: then they wait.
            connection.cursor().execute("PRAGMA journal_mode=WAL")
        with engine.begin() as connection:
            _upgrade(connection)
    return engine


def _begin(connection: Any) -> None:
    # Python's sqlite3 begins no transaction for CREATE TABLE: half a migration could stay.
    connection.exec_driver_sql("BEGIN")


def _postgresql(url: URL) -> Engine:
    limits = {"connect_timeout": 5, "keepalives_idle": 10, "tcp_user_timeout": 10_000}
    try:
        # hide_parameters: no digest may come into an error's text.
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=limits)
    except ModuleNotFoundError:
        raise UsageError("PostgreSQL needs its driver: pip install 'sampan[postgres]'") from None
    with storage(engine), engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _ADVISORY_LOCK})
        _upgrade(connection)
    return engine


def _upgrade(connection: Any) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        with _alembic:
            command.upgrade(config, "head")
    except CommandError as error:
        place = where(connection.engine)
        raise StorageError(f"{place}: {reason(error)}; has a newer Sampan used this database?") from error
