"""The file of a SQLite database: made at a start, for its owner only, and never again.

Contract: `made` makes it where there is none. `open` connects to that very file; once it is gone, or another
has taken its place, it raises `StorageError` and makes nothing: an empty database knows no keys.
"""

import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sampan.core.errors import StorageError, shortened

BUSY_SECONDS = 5.0
_MIGRATION_SECONDS = 60.0


def make_folder(folder: Path) -> None:
    """A folder that only its owner may enter, and those above it; what is there stays as it is."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(0o700, exist_ok=True)


class SqliteFile:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._known: tuple[int, int] | None = None

    @contextmanager
    def made(self) -> Iterator[None]:
        """With the file there, and no other process inside this block."""
        from filelock import FileLock

        make_folder(self.path.parent)
        with FileLock(f"{self.path}.lock", timeout=_MIGRATION_SECONDS, mode=0o600):
            self.path.touch(mode=0o600)  # SQLite gives its other files the same mode
            self._remember()
            yield

    def open(self) -> sqlite3.Connection:
        """A connection."""
        try:
            found = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise StorageError(
                f"{shortened(self.path)}: the database file is gone: put it back, or restart to begin anew"
            ) from None
        if self._known != (found.st_dev, found.st_ino):
            raise StorageError(
                f"{shortened(self.path)}: another file has taken the place of the database: restart to use it"
            )
        # mode=rw: not even in the moment since then.
        return sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS, check_same_thread=False
        )

    def _remember(self) -> None:
        found = self.path.stat()
        self._known = found.st_dev, found.st_ino
        if hasattr(os, "O_PATH"):
            # While it is held, no new file gets the same number. Any other kind of handle would, when it is
            # closed, take away the locks of SQLite's connections.
            weakref.finalize(self, os.close, os.open(self.path, os.O_PATH))
