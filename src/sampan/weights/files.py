"""What both containers share: a mapped file, what is known of a tensor in it, and how damage is named."""

import mmap
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sampan.core.errors import WeightsError
from sampan.kernels.formats import TensorType


@dataclass(frozen=True)
class TensorInfo:
    """A tensor under the name that its file gives it: `shape` is row-major, [out, in] for a matrix;
    `offset` is its first byte."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    file: Path
    offset: int
    nbytes: int


def damaged(path: Path, field: str, offset: int, problem: str) -> WeightsError:
    """The error of one field of one file; the caller raises it."""
    return WeightsError(f"{path}: {field} at byte {offset} {problem}")


def quoted(value: object) -> str:
    """A name or value out of a file, fit for one line of a message, however large it is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else f"{value[:80]!r}..."
    if isinstance(value, int | float):
        return repr(value)[:40]
    return f"a value of type {type(value).__name__}"


class MappedFile:
    """A regular file mapped read-only. Views stay valid after `close`: the last one unmaps it.

    A file that another process truncates while it is mapped ends this process (SIGBUS), as with any mapping.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data = _map(path)
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
        self.size = len(self.data)
        self._bytes: NDArray[np.uint8] = np.frombuffer(self.data, np.uint8)

    def view(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """`nbytes` bytes from `offset`, read-only and not copied."""
        return self._bytes[offset : offset + nbytes]

    def release(self, offset: int, nbytes: int) -> None:
        """Give the pages of this range back to the system; a later read fetches them again."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = offset // mmap.PAGESIZE * mmap.PAGESIZE
        self.data.madvise(mmap.MADV_DONTNEED, start, offset + nbytes - start)

    def close(self) -> None:
        """Unmap, or leave that to the last view."""
        self._bytes = np.empty(0, np.uint8)
        with suppress(BufferError):
            self.data.close()


def _map(path: Path) -> mmap.mmap:
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path}: is not a regular file")
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            raise WeightsError(f"{path}: is empty: fetch it again")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
