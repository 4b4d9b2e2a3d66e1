"""Bytes to disk: room enough, complete or absent, and with the hash that was promised."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sampan.core.errors import FetchError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


def gigabytes(n: int) -> str:
    """`n` bytes in words: 92.9 MB, 15.2 GB."""
    return f"{n / 1e6:.1f} MB" if n < 1e9 else f"{n / 1e9:.1f} GB"


def check_space(folder: Path, needed: int) -> None:
    """`FetchError` when the file system of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FetchError(
            f"{folder} has {gigabytes(free)} free and the model needs {gigabytes(needed)}: make room "
            "(`sampan models rm`) or set SAMPAN_HOME to a larger disk"
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk below `folder` into one clear `FetchError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise no_space(folder) from error
        if error.errno in _FORBIDDEN:
            raise FetchError(
                f"{folder}: {error.strerror}: set SAMPAN_HOME to a folder you can write to"
            ) from error
        raise FetchError(f"{folder}: the disk answered {error}: set SAMPAN_HOME to another disk") from error


def no_space(folder: Path) -> FetchError:
    """The error of a disk, quota or file-size limit that was reached half-way."""
    return FetchError(
        f"no space left below {folder}; what was fetched is removed: make room (`sampan models rm`) "
        "or set SAMPAN_HOME to a larger disk"
    )


def verify(path: Path, sha256: str, what: str) -> None:
    """Delete `path` and raise `FetchError` unless it has this hash."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.unlink()
        raise FetchError(
            f"{what} has sha256 {found} and should have {sha256}: it was damaged on the way, or is another "
            "file than the one published; it is removed, fetch it again"
        )


def sync(path: Path) -> None:
    """Make a file or folder survive a power cut."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
