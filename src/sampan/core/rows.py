"""Files of rows, one JSON object a line, as runs keep what has happened in them.

A line that a kill or a full disk cut is no row: it is left out by who reads, and taken away by who goes on.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sampan.core.errors import SampanError, shortened

Row = dict[str, Any]


class RowFile:
    """Of this path, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether there is any row, or was."""
        return self.path.exists()

    def rows(self) -> list[Row]:
        """All whole ones in turn; raises `SampanError` for a file of anything else."""
        if not self.exists:
            return []
        lines = self.path.read_bytes().split(b"\n")
        # Behind the last line's end stands nothing, or what was cut.
        return [self._row(number, line) for number, line in enumerate(lines[:-1], 1)]

    def keep(self, wanted: Callable[[Row], bool]) -> list[Row]:
        """Leave these rows alone in the file, in one rename, and return them."""
        kept = [row for row in self.rows() if wanted(row)]
        if self.exists:
            write_lines(self.path, kept)
        return kept

    def add(self, row: Row) -> None:
        """One more, there to stay when this returns: a checkpoint never knows steps that the log does not.
        Raises `OSError` where it cannot be written; nothing of it is in the file then."""
        data = _line(row)
        with self.path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise

    def _row(self, number: int, line: bytes) -> Row:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SampanError(f"{shortened(self.path)}: line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise SampanError(f"{shortened(self.path)}: line {number} is no JSON object")
        return row


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    """A file of rows that is there whole or not at all."""
    _write(path, map(_line, rows))


def write_text(path: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    _write(path, [text.encode("utf-8", "replace")])


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"
